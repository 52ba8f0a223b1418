package score_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/apis/score"
)

func web() score.Service { return score.Service{Name: "web", Image: "registry.example/web:1"} }

func of(services ...score.Service) score.Score {
	return score.Score{PodmanV0: &score.PodmanV0{Services: services}}
}

func withSecrets(secrets ...score.Secret) score.Score {
	svc := web()
	svc.Secrets = secrets
	return of(svc)
}

func TestSecretNames(t *testing.T) {
	one, other := web(), web()
	other.Name = "other"
	one.Secrets = []score.Secret{{Name: "db", Key: "a", Env: "A"}, {Name: "api", Key: "a", Env: "B"}}
	other.Secrets = []score.Secret{{Name: "db", Key: "b", File: "/b"}}
	s := of(one, other)
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"api", "db"}, s.PodmanV0.SecretNames()); diff != "" {
		t.Error(diff)
	}
}

func TestValidateNamesTheField(t *testing.T) {
	with := func(change func(*score.Service)) score.Score {
		svc := web()
		change(&svc)
		return of(svc)
	}
	other := web()
	other.Name = "other"
	negative, tooMany := int32(-1), make([]score.EnvVar, 129)
	cases := map[string]struct {
		score score.Score
		want  string // "" means valid
	}{
		"minimal":                 {of(web()), ""},
		"no member":               {score.Score{}, "exactly one member"},
		"no services":             {of(), "podmanV0.services"},
		"too many services":       {of(make([]score.Service, 17)...), "podmanV0.services"},
		"same name twice":         {of(web(), web()), "used twice"},
		"upper case name":         {with(func(s *score.Service) { s.Name = "Web" }), "services[0].name"},
		"dotted name":             {with(func(s *score.Service) { s.Name = "a.b" }), "services[0].name"},
		"64 characters":           {with(func(s *score.Service) { s.Name = strings.Repeat("a", 64) }), "services[0].name"},
		"image with a space":      {with(func(s *score.Service) { s.Image = "a b" }), "services[0].image"},
		"image like a flag":       {with(func(s *score.Service) { s.Image = "--privileged" }), "services[0].image"},
		"too much env":            {with(func(s *score.Service) { s.Env = tooMany }), "services[0].env"},
		"env set twice":           {with(func(s *score.Service) { s.Env = []score.EnvVar{{Name: "A"}, {Name: "A"}} }), `"A"`},
		"env with NUL":            {with(func(s *score.Service) { s.Env = []score.EnvVar{{Name: "A", Value: "\x00"}} }), `"A"`},
		"env not UTF-8":           {with(func(s *score.Service) { s.Env = []score.EnvVar{{Name: "A", Value: "\xff"}} }), `"A"`},
		"port 0":                  {with(func(s *score.Service) { s.Ports = []score.Port{{HostPort: 80}} }), "services[0].ports"},
		"port 65536":              {with(func(s *score.Service) { s.Ports = []score.Port{{HostPort: 65536, ContainerPort: 1}} }), "services[0].ports"},
		"unknown protocol":        {with(func(s *score.Service) { s.Ports = []score.Port{{HostPort: 1, ContainerPort: 1, Protocol: "SCTP"}} }), "services[0].ports"},
		"same port, two services": {of(withPort(web()), withPort(other)), "published by service \"web\" already"},
		"volume without a source": {with(func(s *score.Service) { s.Volumes = []score.Volume{{ContainerPath: "/a"}} }), "services[0].volumes"},
		"volume with two sources": {with(func(s *score.Service) {
			s.Volumes = []score.Volume{{ContainerPath: "/a", HostPath: "/b", Volume: "c"}}
		}), "services[0].volumes"},
		"relative host path":  {with(func(s *score.Service) { s.Volumes = []score.Volume{{ContainerPath: "/a", HostPath: "b"}} }), "services[0].volumes"},
		"climbing host path":  {with(func(s *score.Service) { s.Volumes = []score.Volume{{ContainerPath: "/a", HostPath: "/b/../etc"}} }), "services[0].volumes"},
		"mount option inside": {with(func(s *score.Service) { s.Volumes = []score.Volume{{ContainerPath: "/a:rw", HostPath: "/b"}} }), "services[0].volumes"},
		"secrets": {withSecrets(score.Secret{Name: "db", Key: "user", Env: "DB_USER"},
			score.Secret{Name: "db", Key: "ca.pem", File: "/run/secrets/ca.pem"}), ""},
		"secret of nowhere":         {withSecrets(score.Secret{Name: "db", Key: "user"}), "services[0].secrets[0]"},
		"secret in two places":      {withSecrets(score.Secret{Name: "db", Key: "user", Env: "A", File: "/a"}), "services[0].secrets[0]"},
		"secret of another's path":  {withSecrets(score.Secret{Name: "../other/db", Key: "user", Env: "A"}), "services[0].secrets[0]"},
		"secret with a wildcard":    {withSecrets(score.Secret{Name: "+", Key: "user", Env: "A"}), "services[0].secrets[0]"},
		"secret without a key":      {withSecrets(score.Secret{Name: "db", Env: "A"}), "services[0].secrets[0]"},
		"secret in a climbing file": {withSecrets(score.Secret{Name: "db", Key: "user", File: "/run/../etc/passwd"}), "services[0].secrets[0]"},
		"variable set twice": {withSecrets(score.Secret{Name: "db", Key: "a", Env: "A"}, score.Secret{Name: "db", Key: "b", Env: "A"}),
			`"A" is set twice`},
		"file mounted twice": {withSecrets(score.Secret{Name: "db", Key: "a", File: "/a"}, score.Secret{Name: "db", Key: "b", File: "/a"}),
			`"/a" is mounted twice`},
		"unknown restart": {with(func(s *score.Service) { s.RestartPolicy = "sometimes" }), "restartPolicy"},
		"odd memory":      {with(func(s *score.Service) { s.Resources = &score.Resources{Memory: "64MB"} }), "resources.memory"},
		"odd cpu":         {with(func(s *score.Service) { s.Resources = &score.Resources{CPU: "a lot"} }), "resources.cpu"},
		"empty check":     {with(func(s *score.Service) { s.HealthCheck = &score.HealthCheck{} }), "healthCheck.command"},
		"negative grace":  {with(func(s *score.Service) { s.StopGracePeriodSeconds = &negative }), "stopGracePeriodSeconds"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := c.score.Validate()
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got error %v, want one that says %q", err, c.want)
			}
		})
	}
}

func withPort(s score.Service) score.Service {
	s.Ports = []score.Port{{ContainerPort: 80, HostPort: 8080}}
	return s
}

func TestEncodeDecode(t *testing.T) {
	first, err := score.Encode(of(withPort(web())))
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := score.Decode(first)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(of(withPort(web())), decoded); diff != "" {
		t.Errorf("changed on the way (- want, + got):\n%s", diff)
	}
	for reason, data := range map[string]string{
		"trailing data": string(first) + "{}", "not UTF-8": "\xff", "no member": "{}", "unknown member alone": `{"okdApplyV0":{}}`,
		"wrong type": `{"podmanV0":{"services":"web"}}`, "empty": "", "oversize": `{"podmanV0":"` + strings.Repeat("x", score.MaxBytes) + `"}`,
	} {
		if _, err := score.Decode([]byte(data)); err == nil {
			t.Errorf("%s: accepted", reason)
		}
	}
	if _, err := score.Decode([]byte(`{"podmanV0":{"services":[{"name":"a","image":"b","future":1}]},"x":{}}`)); err != nil {
		t.Errorf("unknown fields beside the known ones are refused: %v", err)
	}
}

func TestEncodeRefusesTooLarge(t *testing.T) {
	svc := web()
	for i := range 9 {
		svc.Env = append(svc.Env, score.EnvVar{Name: "A" + string(rune('0'+i)), Value: strings.Repeat("x", 32<<10)})
	}
	if _, err := score.Encode(of(svc)); !errors.Is(err, score.ErrTooLarge) {
		t.Errorf("got error %v, want ErrTooLarge", err)
	}
}

func TestQuantities(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "500m": 500, "0.5": 500, "2": 2000, "0.001": 1} {
		if got := (score.Resources{CPU: text}).MilliCPU(); got != want {
			t.Errorf("cpu %q is %d thousandths, want %d", text, got, want)
		}
	}
	for text, want := range map[string]int64{"": 0, "1024": 1024, "64Ki": 64 << 10, "64Mi": 64 << 20, "2Gi": 2 << 30} {
		if got := (score.Resources{Memory: text}).MemoryBytes(); got != want {
			t.Errorf("memory %q is %d bytes, want %d", text, got, want)
		}
	}
}

func TestServiceDigestFollowsContent(t *testing.T) {
	a, b := web(), web()
	if a.Digest() != b.Digest() || !a.Digest().Valid() {
		t.Errorf("equal services have digests %s and %s", a.Digest(), b.Digest())
	}
	b.Env = []score.EnvVar{{Name: "A", Value: "1"}}
	if a.Digest() == b.Digest() {
		t.Error("a changed service has the same digest")
	}
}

// FuzzDecode: nothing panics, and what is accepted is canonical after one turn.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"podmanV0":{"services":[{"name":"a","image":"b"}]}}`))
	f.Add([]byte(`{"podmanV0":{"services":[{"name":"a","image":"b","ports":[{"containerPort":1,"hostPort":2}],"volumes":[{"containerPath":"/a","volume":"v"}]}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := score.Decode(data)
		if err != nil {
			return
		}
		first, err := score.Encode(s)
		if errors.Is(err, score.ErrTooLarge) {
			return
		}
		again, err := score.Decode(first)
		if err != nil {
			t.Fatalf("own encoding is refused: %v\n%s", err, first)
		}
		second, err := score.Encode(again)
		if err != nil || !cmp.Equal(first, second) {
			t.Fatalf("not canonical:\n%s\n%s", first, second)
		}
	})
}
