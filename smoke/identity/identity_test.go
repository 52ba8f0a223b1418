package identity_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/agent/bus"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
	"github.com/nationtech/harmony-fleet/smoke/programs"
)

// TestLifetimes: over several lives of its token a device is never refused, loses
// nothing, and says nothing but that it renewed.
func TestLifetimes(t *testing.T) {
	t.Parallel()
	for name, credentials := range map[string]func(*world) v1alpha1.Credentials{"key": (*world).byKey, "secret": (*world).bySecret} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, oidc.Options{TokenLifetime: 2 * lifetime})
			a := w.run(credentials(w), time.Now)
			w.arrives(a, "hello")
			for n := range 3 {
				w.eventually("it renews", func() bool { return a.log.having("the token was renewed") > n })
				w.arrives(a, fmt.Sprint("after renewal ", n))
				w.want(a, uint64(n+1))
			}
			for _, bad := range []string{"not reachable", "broker reported", "going on with"} {
				if a.log.having(bad) > 0 {
					t.Errorf("the agent logged %q", bad)
				}
			}
			if w.callout.having("denied") > 0 {
				t.Error("a login was refused")
			}
		})
	}
}

// TestOutage: while the provider is down a device works on with a token that has
// expired, and soon after it is back with a fresh one.
func TestOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, oidc.Options{TokenLifetime: lifetime})
	a := w.run(w.byKey(), time.Now)
	w.arrives(a, "hello")
	w.provider.Stop()
	w.eventually("the loss is told", func() bool { return a.log.having("going on with the last one") > 0 })
	w.eventually("the session is over", func() bool { return a.log.having("ends the session") > 0 })
	w.arrives(a, "with a token that has expired")
	w.want(a, 1)
	if n := a.log.having("going on with the last one"); n != 1 {
		t.Errorf("the outage is told %d times", n)
	}
	w.must(w.provider.Restart(t.Context()))
	w.eventually("there is a fresh token", func() bool { return a.log.having("gives out tokens again") > 0 })
	w.arrives(a, "with a fresh token")
}

// TestBrokerRestart: what expired while the broker was down is replaced.
func TestBrokerRestart(t *testing.T) {
	t.Parallel()
	b, err := broker.StartProcess(t.Context(), broker.Options{Callout: true})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldOf(t, oidc.Options{TokenLifetime: lifetime}, b)
	a := w.run(w.byKey(), time.Now)
	w.arrives(a, "hello")
	b.Kill()
	w.must(a.PutInfo(wire.DeviceInfo{Labels: map[string]string{"said": "while the broker was down"}}))
	time.Sleep(lifetime + time.Second)
	w.must(b.Restart(t.Context()))
	w.want(a, 1)
	w.arrives(a, "after the restart")
}

// TestClock: a device whose clock is years off connects.
func TestClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, oidc.Options{})
	for off, clock := range map[string]time.Time{"1970": time.Unix(0, 0), "2099": time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)} {
		started := time.Now()
		a := w.run(w.byKey(), func() time.Time { return clock.Add(time.Since(started)) })
		w.arrives(a, "in "+off)
		if a.log.having("clock is wrong") != 1 {
			t.Errorf("%s: the wrong clock is not told", off)
		}
	}
}

// TestRefused: a person is told who refused what, and where to look.
func TestRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, oidc.Options{})
	stranger, err := w.provider.AddMachine(oidc.Machine{Name: "pi-5", Roles: []string{"device"}, RoleClaims: oidc.ProjectRoleMap})
	w.must(err)
	removed, err := w.provider.AddMachine(oidc.Machine{Name: "device-pi-6"})
	w.must(err)
	w.provider.RemoveMachine("device-pi-6")
	for reason, c := range map[string]struct {
		key  []byte
		want string
	}{
		"by the provider": {removed.KeyJSON, "refused the key in [credentials] key_file"},
		"by the broker":   {stranger.KeyJSON, "by a token of " + w.provider.Issuer() + ", which is not that device's"},
	} {
		credentials := w.byKey()
		credentials.KeyFile = w.file(c.key)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		log := &logbook{}
		_, err := bus.Probe(ctx, w.target(credentials, time.Now, log.logger(t)))
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", reason, err)
		}
		a := w.run(credentials, time.Now)
		w.eventually("it is logged", func() bool {
			return a.log.having(c.want) > 0 || a.log.having(strings.ReplaceAll(c.want, `"`, `\"`)) > 0
		})
	}
}

// TestCheck: `fleet-agent check` says what the broker let in, or what to do.
func TestCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t, oidc.Options{})
	run := w.checker()
	check := func(c v1alpha1.Credentials) string { return run(w.configuration(c)) }
	byKey, bySecret, wrong := w.byKey(), w.bySecret(), w.byKey()
	wrong.KeyFile = w.file([]byte("{}"))
	for _, c := range []struct {
		credentials v1alpha1.Credentials
		want        []string
	}{
		{byKey, []string{"ok    broker", "with a token of " + byKey.Issuer + " for the key in " + byKey.KeyFile}},
		{bySecret, []string{"ok    broker", "with a token of " + byKey.Issuer + ` for the client "device-pi-4"`}},
		{wrong, []string{"FAIL  broker", "is not the key of a machine user"}},
	} {
		out := check(c.credentials)
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: the output lacks %q:\n%s", c.credentials.Type, want, out)
			}
		}
	}
	w.provider.Stop()
	if out := check(byKey); !strings.Contains(out, "FAIL  broker") || !strings.Contains(out, "the OpenID provider at "+byKey.Issuer+" cannot be reached") {
		t.Errorf("the provider is down:\n%s", out)
	}
}

// checker builds the agent and returns what runs its check on a configuration.
func (w *world) checker() func(configuration string) string {
	w.Helper()
	dir := w.TempDir()
	w.must(programs.Build(w.Context(), dir, "", programs.Agent))
	return func(configuration string) string {
		w.Helper()
		ctx, cancel := context.WithTimeout(w.Context(), 3*time.Minute)
		defer cancel()
		path := filepath.Join(w.TempDir(), "config.toml")
		w.must(os.WriteFile(path, []byte(configuration), 0o600))
		out, _ := exec.CommandContext(ctx, filepath.Join(dir, "fleet-agent"), "check", "--config", path).CombinedOutput() // podman is missing
		return string(out)
	}
}

// configuration of an agent in a file.
func (w *world) configuration(c v1alpha1.Credentials) string {
	text := fmt.Sprintf("[agent]\ndevice_id = %q\ntrusted_keys = [%q]\nstate_dir = %q\n[nats]\nurls = [%q]\n[podman]\nsocket = \"unix:///nonexistent/podman.sock\"\n[credentials]\ntype = %q\nissuer = %q\naudience = %q\n",
		device, w.broker.TrustedKeys()[0], w.TempDir(), w.broker.URL(), c.Type, c.Issuer, c.Audience)
	for name, value := range map[string]string{"key_file": c.KeyFile, "client_id": c.ClientID, "client_secret_file": c.ClientSecretFile} {
		if value != "" {
			text += fmt.Sprintf("%s = %q\n", name, value)
		}
	}
	return text
}
