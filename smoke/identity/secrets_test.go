package identity_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/openbao/openbao/api/v2"

	core "github.com/nationtech/harmony-fleet/agent"
	"github.com/nationtech/harmony-fleet/agent/status"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
	"github.com/nationtech/harmony-fleet/smoke/openbao"
	"github.com/nationtech/harmony-fleet/smoke/podman"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/registry"
)

var (
	web = wire.DeploymentID{Namespace: "shop", Name: "web"}
	db  = secret.Ref{Deployment: web, Name: "db"}
)

// values are what nobody but the container may learn. No text that is written for
// another reason has one of them.
var values = []string{"kW3vq8Zr-first", "kW3vq8Zr-second", "kW3vq8Zr-third", "kW3vq8Zr-fourth", "kW3vq8Zr-odd"}

// site is a world in which OpenBao has secrets, and the device runs containers.
type site struct {
	*world
	server     *openbao.Server
	admin      *api.Client
	accessor   string
	podman     *podman.Service
	registry   *registry.Registry
	cfg        v1alpha1.AgentConfig
	port       int
	generation uint64

	mu      sync.Mutex
	written bytes.Buffer // all that the agent wrote anywhere but to the disk; with mu
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{world: newWorld(t, oidc.Options{})}
	var err error
	s.server, err = openbao.Start(t.Context(), openbao.Options{})
	s.must(err)
	t.Cleanup(s.server.Stop)
	s.admin, err = s.server.Client(s.server.RootToken())
	s.must(err)
	s.must(s.server.EnableKV(t.Context(), "fleet"))
	s.must(s.server.WritePolicy(t.Context(), secret.DevicePolicy, secret.DeviceRules("fleet")))
	s.accessor, err = s.server.EnableJWT(t.Context(), "jwt", openbao.Issuer{PublicKeys: []string{string(s.provider.PublicKeyPEM())}, Name: s.provider.Issuer()})
	s.must(err)
	s.must(s.server.WriteRole(t.Context(), "jwt", secret.DevicePolicy, openbao.Role{
		Audiences: []string{s.provider.ProjectID()}, UserClaim: "client_id", Policies: []string{secret.DevicePolicy}, TTL: 15 * time.Minute,
	}))
	s.podman, err = podman.Start(t.Context(), podman.Options{Name: "secret", Progress: t.Output()})
	s.must(err)
	t.Cleanup(func() { s.must(s.podman.Stop()) })
	s.registry, err = registry.Start()
	s.must(err)
	t.Cleanup(func() { s.must(s.registry.Stop()) })
	image, err := images.Hello("1")
	s.must(err)
	s.must(s.registry.Push("hello:1", image))
	s.port, err = process.FreePort()
	s.must(err)
	s.cfg = v1alpha1.AgentDefaults()
	s.cfg.Agent.DeviceID, s.cfg.Agent.StateDir, s.cfg.Agent.TrustedKeys = string(device), t.TempDir(), s.broker.TrustedKeys()
	s.cfg.NATS, s.cfg.Credentials = s.broker.NATS(), s.byKey()
	s.cfg.Podman.Socket, s.cfg.Podman.PollInterval = s.podman.Socket(), v1alpha1.Duration(time.Second)
	s.cfg.OpenBao.Address = s.server.Address()
	s.must(s.cfg.Validate())
	s.cfg.OpenBao.RefreshInterval = v1alpha1.Duration(time.Second) // no fleet may ask for that
	// All that is said in the fleet's account, this device's words among it.
	heard, err := s.fleet.Subscribe(">", func(m *nats.Msg) { s.wrote(m.Data) })
	s.must(err)
	s.must(s.fleet.Flush())
	t.Cleanup(func() { s.must(heard.Unsubscribe()) })
	return s
}

func (s *site) wrote(data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written.Write(data)
	s.written.WriteByte('\n')
}

// enrol makes the entity by which OpenBao knows the device.
func (s *site) enrol() {
	s.Helper()
	entity, err := s.admin.Logical().WriteWithContext(s.Context(), "identity/entity/name/"+secret.EntityName(device), nil)
	s.must(err)
	_, err = s.admin.Logical().WriteWithContext(s.Context(), "identity/entity-alias", map[string]any{
		"name": secret.EntityName(device), "canonical_id": entity.Data["id"], "mount_accessor": s.accessor,
	})
	s.must(err)
}

// grant lets the device read these secrets, as the operator does.
func (s *site) grant(refs ...secret.Ref) {
	s.Helper()
	metadata, _ := secret.Grant(nil, refs)
	_, err := s.admin.Logical().WriteWithContext(s.Context(), "identity/entity/name/"+secret.EntityName(device), map[string]any{"metadata": metadata})
	s.must(err)
}

func (s *site) put(ref secret.Ref, data map[string]any) {
	s.Helper()
	s.must(s.server.PutSecret(s.Context(), "fleet", ref.Path(), data))
}

// start runs the agent and returns what ends it. Its log is at debug.
func (s *site) start() (stop func()) {
	s.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	book := &logbook{}
	log := book.logger(s.T)
	var running sync.WaitGroup
	running.Go(func() {
		if err := core.Run(ctx, s.cfg, core.Options{Version: "v1.2.3", Log: log}); err != nil {
			s.Errorf("Run(): %v", err)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		book.mu.Lock()
		defer book.mu.Unlock()
		s.wrote([]byte(strings.Join(book.lines, "\n")))
	})
	s.Cleanup(stop)
	return stop
}

// app is a service that gets the password of db in both ways.
func (s *site) app() score.Service {
	return score.Service{
		Name: "app", Image: s.registry.Ref("hello:1"),
		Ports: []score.Port{{ContainerPort: images.Port, HostPort: int32(s.port), HostIP: "127.0.0.1"}},
		Secrets: []score.Secret{
			{Name: "db", Key: "password", Env: "PASSWORD"}, {Name: "db", Key: "password", File: "/run/secrets/password"},
			{Name: "db", Key: "user", File: "/etc/app/user"},
		},
	}
}

// deploy makes the services all that the device shall run; none deletes it.
func (s *site) deploy(services ...score.Service) {
	s.Helper()
	s.generation++
	entries := map[string]wire.ManifestEntry{}
	store := func(key string, data []byte) {
		s.Helper()
		s.eventually("the broker takes the desired state", func() bool {
			ack, err := s.fleet.Request(wire.DesiredState.Subject(key), data, time.Second)
			return err == nil && !strings.Contains(string(ack.Data), `"error"`)
		})
	}
	if len(services) > 0 {
		canonical, err := score.Encode(score.Score{PodmanV0: &score.PodmanV0{Services: services}})
		s.must(err)
		entries[web.Token()] = wire.ManifestEntry{Revision: int64(s.generation), Digest: score.DigestOf(canonical)}
		store(wire.DeploymentKey(device, web), canonical)
	}
	manifest, err := s.broker.Manifest(device, s.generation, entries)
	s.must(err)
	store(wire.DeviceKey(device), manifest)
}

// reaches waits for the state and returns its message.
func (s *site) reaches(phase wire.Phase, reason string, says ...string) wire.DeviceState {
	s.Helper()
	var state wire.DeviceState
	s.patiently(fmt.Sprintf("state %s/%s %q", phase, reason, says), func() bool {
		msg, err := s.fleet.Request(wire.DeviceStates.DirectGet(wire.DeploymentKey(device, web)), nil, time.Second)
		if err != nil {
			return false
		}
		state, err = wire.DecodeDeviceState(msg.Data)
		return err == nil && state.Phase == phase && state.Reason == reason &&
			!slices.ContainsFunc(says, func(word string) bool { return !strings.Contains(state.Message, word) })
	})
	s.page()
	return state
}

// page has the status page written.
func (s *site) page() {
	s.Helper()
	view, err := status.Read(s.Context(), s.cfg)
	s.must(err)
	var page bytes.Buffer
	s.must(view.Print(&page, time.Now()))
	s.wrote(page.Bytes())
}

func (s *site) patiently(what string, holds func() bool) {
	s.Helper()
	for end := time.Now().Add(3 * time.Minute); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("not in three minutes: %s", what)
		}
	}
}

// has waits until the container has the password in both ways.
func (s *site) has(password string) {
	s.Helper()
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, path := range []string{"env?name=PASSWORD", "file?path=/run/secrets/password"} {
		s.patiently(path+" is "+password, func() bool {
			response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/%s", s.port, path))
			if err != nil {
				return false
			}
			defer func() { _ = response.Body.Close() }()
			body, err := io.ReadAll(response.Body)
			return err == nil && strings.TrimSpace(string(body)) == password
		})
	}
}

func (s *site) run(args ...string) string {
	s.Helper()
	out, err := s.podman.Run(s.Context(), args...)
	s.must(err)
	return strings.TrimSpace(out)
}

// secretsInPodman are the names of all of them.
func (s *site) secretsInPodman() []string {
	s.Helper()
	return strings.Fields(s.run("secret", "ls", "--noheading", "--format={{.Name}}"))
}

// tellsNothing looks for the values in all that the agent wrote, in what is stored
// in the broker, and in what podman shows.
func (s *site) tellsNothing() {
	s.Helper()
	places := map[string][]byte{}
	s.mu.Lock()
	places["what was logged, sent and shown"] = bytes.Clone(s.written.Bytes())
	s.mu.Unlock()
	s.must(filepath.WalkDir(s.cfg.Agent.StateDir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			places[path], err = os.ReadFile(path)
		}
		return err
	}))
	js, err := s.fleet.JetStream()
	s.must(err)
	for name := range js.StreamNames() {
		info, err := js.StreamInfo(name)
		s.must(err)
		for sequence := info.State.FirstSeq; sequence <= info.State.LastSeq && info.State.Msgs > 0; sequence++ {
			if msg, err := js.GetMsg(name, sequence); err == nil { // else it is gone
				places[name] = append(places[name], msg.Data...)
			}
		}
	}
	for _, args := range [][]string{{"ps", "--all", "--format=json"}, {"events", "--stream=false"}, {"secret", "ls"}} {
		places[fmt.Sprint("podman ", args)] = []byte(s.run(args...))
	}
	for id := range strings.FieldsSeq(s.run("ps", "--all", "--quiet")) {
		places["podman inspect"] = append(places["podman inspect"], s.run("inspect", id)...)
		places["podman logs"] = append(places["podman logs"], s.run("logs", id)...)
	}
	for _, place := range []string{"what was logged, sent and shown", "KV_desired-state", filepath.Join(s.cfg.Agent.StateDir, "secrets.json"), "podman [events --stream=false]"} {
		if len(places[place]) == 0 {
			s.Errorf("there is nothing in %s", place)
		}
	}
	for _, value := range values {
		for how, text := range map[string]string{
			"in clear": value, "in base64": base64.StdEncoding.EncodeToString([]byte(value))[:16], "in hex": hex.EncodeToString([]byte(value)),
		} {
			for place, content := range places {
				if bytes.Contains(bytes.ToLower(content), bytes.ToLower([]byte(text))) {
					s.Errorf("%s: %q stands there %s", place, value, how)
				}
			}
		}
	}
}

// TestSecrets follows a Deployment with secrets through all of its life. It and
// those below run one after the other: the tests beside them have clocks to beat.
func TestSecrets(t *testing.T) {
	s := newSite(t)
	s.run("secret", "create", "somebodys", s.file([]byte("theirs")))
	stop := s.start()
	s.deploy(s.app())
	s.reaches(wire.PhasePending, "SecretUnavailable", `secret "db"`)
	s.reaches(wire.PhaseFailed, "SecretRefused", `secret "db", key "password"`, "enrolled")
	s.enrol()
	s.grant(db)
	s.reaches(wire.PhaseFailed, "SecretMissing", "secrets/shop/web/db")
	s.put(db, map[string]any{"password": 4711, "user": values[4]})
	s.reaches(wire.PhaseFailed, "SecretInvalid", `key "password"`)
	s.put(db, map[string]any{"password": values[0]})
	s.reaches(wire.PhaseFailed, "SecretMissing", `key "user"`, "no such key")
	if out := s.run("ps", "--all", "--quiet"); out != "" {
		t.Errorf("there is a container: %s", out)
	}
	s.put(db, map[string]any{"password": values[0], "user": "fleet"})
	s.has(values[0])
	first := s.reaches(wire.PhaseSucceeded, "Running")
	s.tellsNothing()

	// OpenBao forgets all logins, and the value changes.
	_, err := s.admin.Logical().WriteWithContext(t.Context(), "sys/leases/revoke-prefix/auth/jwt/login", nil)
	s.must(err)
	s.put(db, map[string]any{"password": values[1], "user": "fleet"})
	s.has(values[1])
	s.patiently("the old container is gone", func() bool { return len(strings.Fields(s.run("ps", "--all", "--quiet"))) == 1 })
	var second wire.DeviceState
	s.patiently("the new container is reported", func() bool {
		second = s.reaches(wire.PhaseSucceeded, "Running")
		return len(second.Containers) == 1 && second.Containers[0] != first.Containers[0]
	})
	s.patiently("the old values are gone", func() bool { return len(s.secretsInPodman()) == 3 })
	s.tellsNothing()

	// Deleted, and written again.
	s.must(s.admin.KVv2("fleet").Delete(t.Context(), db.Path()))
	deleted := s.reaches(wire.PhaseFailed, "SecretMissing", "what runs goes on")
	if len(deleted.Containers) != 1 || deleted.Containers[0] != second.Containers[0] {
		t.Errorf("after the deletion %v runs, was %v", deleted.Containers, second.Containers)
	}
	s.has(values[1])
	s.put(db, map[string]any{"password": values[2], "user": "fleet"})
	s.has(values[2])
	s.reaches(wire.PhaseSucceeded, "Running")

	// Nothing wanted any more.
	s.deploy()
	s.patiently("containers and values are gone", func() bool {
		return s.run("ps", "--all", "--quiet") == "" && slices.Equal(s.secretsInPodman(), []string{"somebodys"})
	})
	s.patiently("the disk forgets it", func() bool {
		data, err := os.ReadFile(filepath.Join(s.cfg.Agent.StateDir, "secrets.json"))
		return err == nil && string(data) == "[]"
	})
	stop()
	s.tellsNothing()
}

// TestSecretsWithoutNetwork: what runs goes on, and starts again after a power cut,
// while OpenBao, the provider and the broker are down.
func TestSecretsWithoutNetwork(t *testing.T) {
	s := newSite(t)
	s.enrol()
	s.grant(db)
	s.put(db, map[string]any{"password": values[0], "user": "fleet"})
	stop := s.start()
	s.deploy(s.app())
	s.has(values[0])
	state := s.reaches(wire.PhaseSucceeded, "Running")
	id := state.Containers[0].ID
	started := s.run("inspect", "--format={{.State.StartedAt}}", id)

	s.server.Kill()
	s.patiently("the outage shows", func() bool {
		view, err := status.Read(t.Context(), s.cfg)
		return err == nil && strings.Contains(view.Report.Secrets, "cannot be reached")
	})
	s.page()
	stop()
	s.provider.Stop()
	s.broker.Stop()
	stop = s.start()
	s.patiently("a new agent has looked", func() bool {
		view, err := status.Read(t.Context(), s.cfg)
		return err == nil && len(view.Report.Deployments) == 1 && view.Report.Deployments[0].State.Phase == wire.PhaseSucceeded && view.Report.Secrets != ""
	})
	if got := s.run("inspect", "--format={{.State.StartedAt}}", id); got != started {
		t.Errorf("the container was started at %s, and again at %s", started, got)
	}
	stop()

	// The power is cut: no container runs, and the same one starts again.
	s.run("kill", "--signal=KILL", id)
	stop = s.start()
	s.has(values[0])
	if got := s.run("ps", "--quiet", "--no-trunc"); got != id {
		t.Errorf("container %s runs, was %s", got, id)
	}
	// Somebody removed it, and it is made again of what podman holds.
	s.run("rm", "--force", "--time=0", id)
	s.has(values[0])
	s.patiently("the value is concealed", func() bool { return !strings.Contains(s.run("inspect", s.run("ps", "--quiet")), values[0]) })
	stop()
}

// TestSecretLostByPodman: a value that somebody took from podman is there again.
func TestSecretLostByPodman(t *testing.T) {
	s := newSite(t)
	s.enrol()
	s.grant(db)
	s.put(db, map[string]any{"password": values[3], "user": "fleet"})
	s.start()
	s.deploy(s.app())
	s.has(values[3])
	s.run(append([]string{"secret", "rm"}, s.secretsInPodman()...)...)
	s.patiently("they are there again", func() bool { return len(s.secretsInPodman()) == 2 })
	s.run("kill", "--signal=KILL", s.run("ps", "--quiet"))
	s.has(values[3])
}

// TestSecretsNeedTokens: a device that cannot read secrets says why, and runs the
// rest.
func TestSecretsNeedTokens(t *testing.T) {
	s := newSite(t)
	other := score.Service{Name: "other", Image: s.registry.Ref("hello:1")}
	s.cfg.OpenBao.Address = ""
	stop := s.start()
	s.deploy(s.app(), other)
	s.reaches(wire.PhaseFailed, "SecretsNotConfigured", "[openbao] address")
	s.patiently("the other service runs", func() bool { return len(strings.Fields(s.run("ps", "--quiet"))) == 1 })
	stop()
}

// TestSecretsCheck: `fleet-agent check` says whether OpenBao lets the device in.
func TestSecretsCheck(t *testing.T) {
	s := newSite(t)
	check := s.checker()
	at := func(change string) string {
		return fmt.Sprintf("%s[openbao]\naddress = %q\n%s\n", s.configuration(s.cfg.Credentials), s.server.Address(), change)
	}
	for _, c := range []struct{ change, want string }{
		{"", `ok    openbao        ` + s.server.Address() + `, logged in as role "fleet-device" for 15m0s`},
		{`login_role = "other"`, `FAIL  openbao        OpenBao refuses this device's login as role "other"`},
		{`login_mount = "elsewhere"`, `FAIL  openbao        OpenBao refuses this device's login`},
		{`ca_file = "/nonexistent/ca.pem"`, `/nonexistent/ca.pem`},
	} {
		if out := check(at(c.change)); !strings.Contains(out, c.want) {
			t.Errorf("%s: the output lacks %q:\n%s", c.change, c.want, out)
		}
	}
	s.server.Kill()
	if out := check(at("")); !strings.Contains(out, "FAIL  openbao        OpenBao at "+s.server.Address()+" cannot be reached") {
		t.Errorf("OpenBao is down:\n%s", out)
	}
	key := s.configuration(v1alpha1.Credentials{Type: v1alpha1.CredentialNKey})
	key = strings.ReplaceAll(strings.ReplaceAll(key, "issuer = \"\"\n", ""), "audience = \"\"\n", "") + "seed_file = \"/nonexistent/seed\"\n"
	if out := check(key + fmt.Sprintf("[openbao]\naddress = %q\n", s.server.Address())); !strings.Contains(out, "FAIL  openbao        secrets need credentials with a provider's tokens") {
		t.Errorf("credentials without tokens:\n%s", out)
	}
}
