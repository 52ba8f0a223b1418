package openbao_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/openbao"
	server "github.com/nationtech/harmony-fleet/smoke/openbao"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a server that is set up as docs say, and a store that reads it.
type world struct {
	*testing.T
	server *server.Fleet
	store  *openbao.Store
	skew   atomic.Int64
	config config.OpenBaoSection

	mu  sync.Mutex
	cut []wire.DeviceID // with mu
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t}
	started, err := server.Start(t.Context(), server.Options{})
	w.must(err)
	t.Cleanup(started.Stop)
	w.server, err = started.Fleet(t.Context())
	w.must(err)
	w.config, err = w.server.Program(t.Context(), "fleet-callout", t.TempDir())
	w.must(err)
	w.must(w.config.Validate())
	w.run()
	return w
}

// run starts a store, and stops it with the test.
func (w *world) run() {
	w.Helper()
	var err error
	w.store, err = openbao.New(openbao.Options{Config: w.config, Now: w.now, Log: w.logger()})
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		w.store.Run(ctx, func(ids []wire.DeviceID) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.cut = append(w.cut, ids...)
		})
	})
	w.Cleanup(func() { cancel(); running.Wait(); w.store.Close() })
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.skew.Load())) }

func (w *world) logger() logr.Logger {
	return funcr.New(func(prefix, args string) { _, _ = w.Output().Write([]byte(prefix + args + "\n")) }, funcr.Options{})
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) eventually(what string, holds func() bool) {
	w.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("not in a minute: %s", what)
		}
	}
}

func (w *world) ready() {
	w.Helper()
	w.eventually("it has read who is revoked", func() bool { return w.store.Ready() == nil })
}

func (w *world) put(path string, data map[string]any) {
	w.Helper()
	w.must(w.server.PutSecret(w.Context(), "fleet", path, data))
}

func (w *world) policy(id wire.DeviceID) (policy.Policy, error) {
	return w.store.Policy(w.Context(), id)
}

func TestPolicy(t *testing.T) {
	w := newWorld(t)
	w.put("devices/pi-1", map[string]any{"labels": map[string]any{"site": []string{"berlin"}}})
	w.put("devices/pi-2", map[string]any{"suspended": true})
	w.put("devices/pi-3", map[string]any{"labels": "all"})
	w.ready()
	got, err := w.policy("pi-1")
	w.must(err)
	if diff := cmp.Diff(policy.Policy{Labels: map[string][]string{"site": {"berlin"}}}, got); diff != "" {
		t.Error(diff)
	}
	for id, want := range map[wire.DeviceID]error{"pi-2": policy.ErrMalformed, "pi-3": policy.ErrMalformed, "pi-4": policy.ErrNone} {
		if _, err := w.policy(id); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", id, err, want)
		}
	}
	// Enrolled a moment later, changed, and removed.
	w.put("devices/pi-4", map[string]any{})
	w.eventually("pi-4 is known", func() bool { _, err := w.policy("pi-4"); return err == nil })
	w.put("devices/pi-1", map[string]any{"labels": map[string]any{"site": []string{"paris"}}})
	w.skew.Add(int64(time.Minute))
	if got, err := w.policy("pi-1"); err != nil || !got.Allows("site", "paris") {
		t.Errorf("after a change: %+v, %v", got, err)
	}
	admin, err := w.server.Client(w.server.RootToken())
	w.must(err)
	w.must(admin.KVv2("fleet").Delete(t.Context(), "devices/pi-1"))
	w.skew.Add(int64(time.Minute))
	if _, err := w.policy("pi-1"); !errors.Is(err, policy.ErrNone) {
		t.Errorf("after its removal: %v", err)
	}
}

// TestRevoked: who is revoked is known within seconds, and told once.
func TestRevoked(t *testing.T) {
	w := newWorld(t)
	w.put("devices/pi-1", map[string]any{})
	w.put("revoked/pi-0", map[string]any{"reason": "stolen"})
	w.ready()
	_, err := w.policy("pi-1")
	w.must(err)
	w.eventually("pi-0 is revoked", func() bool { _, err := w.policy("pi-0"); return errors.Is(err, policy.ErrRevoked) })
	w.put("revoked/pi-1", map[string]any{})
	w.put("revoked/Not.A.Device", map[string]any{})
	w.eventually("pi-1 is revoked", func() bool { _, err := w.policy("pi-1"); return errors.Is(err, policy.ErrRevoked) })
	told := func() []wire.DeviceID {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.Clone(w.cut)
	}
	w.eventually("both are told", func() bool { return len(told()) >= 2 })
	if diff := cmp.Diff([]wire.DeviceID{"pi-0", "pi-1"}, told()); diff != "" {
		t.Error(diff)
	}
	admin, err := w.server.Client(w.server.RootToken())
	w.must(err)
	w.must(admin.KVv2("fleet").DeleteMetadata(t.Context(), "revoked/pi-1"))
	w.eventually("pi-1 is let in again", func() bool { _, err := w.policy("pi-1"); return err == nil })
}

// TestOutage: known devices go on until the stated limit, others wait, and all is
// as before when OpenBao is back.
func TestOutage(t *testing.T) {
	w := newWorld(t)
	w.put("devices/pi-1", map[string]any{})
	w.put("devices/pi-2", map[string]any{})
	w.ready()
	_, err := w.policy("pi-1")
	w.must(err)
	w.server.Kill()
	for _, after := range []time.Duration{time.Minute, time.Hour, time.Duration(w.config.MaxStale) - 10*time.Minute} {
		w.skew.Store(int64(after))
		if _, err := w.policy("pi-1"); err != nil {
			t.Errorf("known, after %s: %v", after, err)
		}
		if _, err := w.policy("pi-2"); err == nil || errors.Is(err, policy.ErrNone) {
			t.Errorf("unknown, after %s: %v", after, err)
		}
	}
	w.skew.Store(int64(w.config.MaxStale) + int64(10*time.Minute))
	if _, err := w.policy("pi-1"); err == nil || errors.Is(err, policy.ErrNone) || errors.Is(err, policy.ErrRevoked) {
		t.Errorf("beyond the limit: %v", err)
	}
	w.must(w.server.Restart(t.Context()))
	for _, id := range []wire.DeviceID{"pi-1", "pi-2"} {
		w.eventually(string(id)+" is known again", func() bool { _, err := w.policy(id); return err == nil })
	}
}

// TestStartWithoutOpenBao: nobody is let in before it is known who is revoked.
func TestStartWithoutOpenBao(t *testing.T) {
	w := newWorld(t)
	w.put("devices/pi-1", map[string]any{})
	w.server.Kill()
	w.run()
	if _, err := w.policy("pi-1"); err == nil || w.store.Ready() == nil {
		t.Errorf("decided without OpenBao: %v", err)
	}
	w.must(w.server.Restart(t.Context()))
	w.eventually("it answers", func() bool { _, err := w.policy("pi-1"); return err == nil })
}

// TestLogin: a login that OpenBao forgot is made again, and one that it refuses is
// told with what to look at.
func TestLogin(t *testing.T) {
	w := newWorld(t)
	w.put("devices/pi-1", map[string]any{})
	w.ready()
	admin, err := w.server.Client(w.server.RootToken())
	w.must(err)
	_, err = admin.Logical().WriteWithContext(t.Context(), "sys/leases/revoke-prefix/auth/kubernetes/login", nil)
	w.must(err)
	w.eventually("it logs in again", func() bool { _, err := w.policy("pi-1"); return err == nil })

	w.must(os.WriteFile(w.config.LoginTokenFile, []byte("not a token"), 0o600))
	w.run()
	w.eventually("the refusal is told", func() bool {
		err := w.store.Ready()
		return err != nil && strings.Contains(err.Error(), `role "fleet-callout"`)
	})
	w.config.LoginTokenFile = "/nonexistent"
	w.run()
	w.eventually("the missing file is told", func() bool {
		err := w.store.Ready()
		return err != nil && strings.Contains(err.Error(), "/nonexistent")
	})
}
