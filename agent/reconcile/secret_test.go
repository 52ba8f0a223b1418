package reconcile_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// withSecret is app with a secret in its environment.
func withSecret(change ...func(*score.Service)) score.Service {
	return app(append(change, func(svc *score.Service) {
		svc.Secrets = []score.Secret{{Name: "db", Key: "user", File: "/user"}, {Name: "db", Key: "password", Env: "PASSWORD"}}
	})...)
}

// supplied is running with a secret in version 1.
func supplied(t *testing.T, services ...score.Service) *model {
	t.Helper()
	m := newModel()
	m.secrets = someSecrets("1", "")
	m.want(services...)
	if _, settled := m.settle(); !settled || m.broken != "" {
		t.Fatalf("does not start: %s %+v", m.broken, m.containers)
	}
	return m
}

// An agent that learns of secrets must leave alone what has none.
func TestDigestWithoutSecretsIsAsItWas(t *testing.T) {
	const canonical = `{"podmanV0":{"services":[{"name":"app","image":"registry.example/app:1","env":[{"name":"A","value":"b"}]}]}}`
	w := reconcile.Want(score.DigestOf([]byte(canonical)), []byte(canonical))
	got := w.Services[0].Supplied(deployment, someSecrets("1", reconcile.ReasonSecretMissing))
	const want = "sha256:a487ff5575cc33d1b185f794cf1e848f310e7269c9932d252cfb739afb22e1a7"
	if got.Digest != want || got.Withheld != nil || got.Versions != nil {
		t.Errorf("got %+v, want digest %s", got, want)
	}
}

func TestDigestCoversVersions(t *testing.T) {
	want := reconcile.Service{Spec: withSecret(), Digest: withSecret().Digest()}
	digest := func(version reconcile.SecretVersion) score.Digest {
		return want.Supplied(deployment, someSecrets(version, "")).Digest
	}
	first, again, second := digest("1"), digest("1"), digest("2")
	if first != again || first == second || first == want.Digest || !first.Valid() {
		t.Errorf("digests %s, %s and %s of %s", first, again, second, want.Digest)
	}
	changed := reconcile.Service{Spec: withSecret(image("app:2"))}
	if changed.Supplied(deployment, someSecrets("1", "")).Digest == first {
		t.Error("another image has the same digest")
	}
}

func TestOrderOfStepsWithSecrets(t *testing.T) {
	for reason, c := range map[string]struct {
		begin func(t *testing.T) *model
		want  []string
	}{
		"the first time": {
			func(*testing.T) *model {
				m := newModel()
				m.secrets = someSecrets("1", "")
				m.want(withSecret())
				return m
			},
			[]string{"app Pull", "app Create", "app Start", "app Conceal"},
		},
		"not read yet": {
			func(*testing.T) *model { m := newModel(); m.want(withSecret()); return m },
			[]string{},
		},
		"a neighbour without secrets does not wait": {
			func(*testing.T) *model {
				m := newModel()
				m.want(withSecret(), app(func(svc *score.Service) { svc.Name = "second" }))
				return m
			},
			[]string{"second Pull", "second Create", "second Start"},
		},
		"a new version": {
			func(t *testing.T) *model { m := supplied(t, withSecret()); m.secrets = someSecrets("2", ""); return m },
			[]string{"app Pull", "app Create", "app Stop", "app Start", "app Conceal"},
		},
		"nothing new": {
			func(t *testing.T) *model { return supplied(t, withSecret()) },
			[]string{},
		},
		"a new agent conceals what somebody may have started again": {
			func(t *testing.T) *model { m := supplied(t, withSecret()); m.restartAgent(); return m },
			[]string{"app Conceal"},
		},
		"a new agent that knows no version leaves it alone": {
			func(t *testing.T) *model { m := supplied(t, withSecret()); m.restartAgent(); m.secrets = nil; return m },
			[]string{},
		},
		"OpenBao cannot be asked": {
			func(t *testing.T) *model {
				m := supplied(t, withSecret())
				m.secrets = someSecrets("1", reconcile.ReasonSecretUnavailable)
				return m
			},
			[]string{},
		},
		"OpenBao cannot be asked, and the container is gone": {
			func(t *testing.T) *model {
				m := supplied(t, withSecret())
				m.containers, m.secrets = nil, someSecrets("1", reconcile.ReasonSecretUnavailable)
				return m
			},
			[]string{"app Create", "app Start", "app Conceal"},
		},
		"deleted, and the container is gone": {
			func(t *testing.T) *model {
				m := supplied(t, withSecret())
				m.containers, m.secrets = nil, someSecrets("1", reconcile.ReasonSecretMissing)
				return m
			},
			[]string{},
		},
		"deleted, and the container ends": {
			func(t *testing.T) *model {
				m := supplied(t, withSecret())
				m.secrets = someSecrets("1", reconcile.ReasonSecretMissing)
				m.end(0, 1)
				return m
			},
			[]string{"app Examine", "app Start", "app Conceal"},
		},
		"a score that names more than there is": {
			func(t *testing.T) *model {
				m := supplied(t, withSecret())
				m.want(withSecret(func(svc *score.Service) { svc.Image = "registry.example/app:2" }))
				m.secrets = someSecrets("", reconcile.ReasonSecretRefused)
				return m
			},
			[]string{},
		},
		"a start that fails shows the value too": {
			func(t *testing.T) *model {
				m := supplied(t, withSecret())
				m.secrets = someSecrets("2", "")
				for m.next(nil)[0] != "app Start" {
				}
				m.finish("app", &reconcile.Failure{Reason: reconcile.ReasonCommandNotFound, Message: "no"})
				return m
			},
			[]string{"app Conceal"},
		},
	} {
		t.Run(reason, func(t *testing.T) {
			m := c.begin(t)
			if diff := cmp.Diff(c.want, m.steps()); diff != "" || m.broken != "" {
				t.Errorf("%s\nsteps (- want, + got):\n%s", m.broken, diff)
			}
		})
	}
}

func TestStateTellsOfSecrets(t *testing.T) {
	for reason, c := range map[string]struct {
		secrets map[reconcile.SecretKey]reconcile.Secret
		runs    bool
		phase   wire.Phase
		reason  string
		says    string
	}{
		"not read yet":                {nil, false, wire.PhasePending, reconcile.ReasonSecretUnavailable, `secret "db" was not read yet`},
		"not read yet, an old one":    {nil, true, wire.PhasePending, reconcile.ReasonSecretUnavailable, `secret "db" was not read yet`},
		"OpenBao is down":             {someSecrets("", reconcile.ReasonSecretUnavailable), false, wire.PhasePending, reconcile.ReasonSecretUnavailable, ""},
		"OpenBao is down, one in use": {someSecrets("1", reconcile.ReasonSecretUnavailable), true, wire.PhaseSucceeded, reconcile.ReasonRunning, ""},
		"missing":                     {someSecrets("", reconcile.ReasonSecretMissing), false, wire.PhaseFailed, reconcile.ReasonSecretMissing, ""},
		"missing, one in use":         {someSecrets("1", reconcile.ReasonSecretMissing), true, wire.PhaseFailed, reconcile.ReasonSecretMissing, ""},
		"refused":                     {someSecrets("", reconcile.ReasonSecretRefused), false, wire.PhaseFailed, reconcile.ReasonSecretRefused, ""},
	} {
		t.Run(reason, func(t *testing.T) {
			m := newModel()
			if c.runs {
				m = supplied(t, withSecret())
			}
			m.want(withSecret())
			m.secrets = c.secrets
			p, settled := m.settle()
			if !settled || p.State == nil || p.State.Phase != c.phase || p.State.Reason != c.reason || !strings.Contains(p.State.Message, c.says) {
				t.Fatalf("state %+v, want %s/%s", p.State, c.phase, c.reason)
			}
			if got := len(p.State.Containers) == 1; got != c.runs {
				t.Errorf("a container runs is %v, want %v", got, c.runs)
			}
		})
	}
}

// A value that cannot be struck out is tried again, and holds nothing else up.
func TestConcealIsTriedAgain(t *testing.T) {
	m := newModel()
	m.secrets = someSecrets("1", "")
	m.want(withSecret())
	for m.next(nil)[0] != "app Conceal" {
	}
	if got := m.next(&reconcile.Failure{Reason: reconcile.ReasonPodmanError, Message: "no"}); len(got) > 0 {
		t.Errorf("at once: %q", got)
	}
	m.now = m.now.Add(30 * time.Second)
	if p := m.plan(); p.State.Phase != wire.PhaseSucceeded || len(p.Steps) > 0 {
		t.Errorf("meanwhile: %+v", p)
	}
	m.now = m.now.Add(31 * time.Second)
	if diff := cmp.Diff([]string{"app Conceal"}, m.steps()); diff != "" {
		t.Error(diff)
	}
}

// Podman takes certain names, and each says whose it is and nothing of the value.
func TestSecretName(t *testing.T) {
	key := reconcile.SecretKey{Ref: secret.Ref{Deployment: deployment, Name: "db"}, Key: "password"}
	other := key
	other.Key = "user"
	seen := map[string]bool{}
	for _, device := range []wire.DeviceID{"pi-1", "pi-2"} {
		for _, k := range []reconcile.SecretKey{key, other} {
			for _, version := range []reconcile.SecretVersion{"1", "2"} {
				name := reconcile.SecretName(device, k, version)
				if !regexp.MustCompile(`^fleet-[0-9a-f]{16}-[0-9a-f]{32}$`).MatchString(name) || len(name) > 64 || !strings.HasPrefix(name, reconcile.SecretPrefix(device)) {
					t.Errorf("name %q", name)
				}
				seen[name] = true
			}
		}
	}
	if len(seen) != 8 {
		t.Errorf("%d names for 8 values", len(seen))
	}
}

func TestSecretKeys(t *testing.T) {
	w := reconcile.Wanted{Services: []reconcile.Service{{Spec: withSecret()}, {Spec: app()}, {Spec: withSecret()}}}
	db := secret.Ref{Deployment: deployment, Name: "db"}
	if diff := cmp.Diff([]reconcile.SecretKey{{Ref: db, Key: "password"}, {Ref: db, Key: "user"}}, w.SecretKeys(deployment)); diff != "" {
		t.Error(diff)
	}
}
