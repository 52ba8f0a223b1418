package engine

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/operator/fleet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newEngine(log logr.Logger) *Engine {
	seed, err := wire.NewSigningKey()
	if err != nil {
		panic(err)
	}
	signer, err := wire.NewSigner(seed)
	if err != nil {
		panic(err)
	}
	return New(Options{Log: log, Now: time.Now, Signer: signer})
}

// TestPoisonIsBounded: whoever may write keys cannot fill the log or the memory.
func TestPoisonIsBounded(t *testing.T) {
	lines := 0
	e := newEngine(funcr.New(func(_, _ string) { lines++ }, funcr.Options{}))
	for i := range 3 * maxPoisonKeys {
		for range 2 {
			stateFollower{e}.Entry(bus.Entry{Key: fmt.Sprintf("a\x00%d", i), Value: []byte("{}")})
		}
	}
	if want := maxPoisonKeys + 1; lines != want || len(e.poison.seen) != maxPoisonKeys {
		t.Errorf("%d lines and %d remembered keys, want %d and %d", lines, len(e.poison.seen), want, maxPoisonKeys)
	}
	if n := testutil.ToFloat64(e.metrics.poison.WithLabelValues("device-state")); n != 6*maxPoisonKeys {
		t.Errorf("%v entries are counted, want %d", n, 6*maxPoisonKeys)
	}
}

// TestInfoQueueKeepsTheNewest: after a failure, an old report does not replace a
// newer one.
func TestInfoQueueKeepsTheNewest(t *testing.T) {
	q := newInfoQueue()
	defer q.queue.ShutDown()
	report := func(name string) wire.DeviceInfo {
		return wire.DeviceInfo{Inventory: wire.Inventory{Hostname: name}}
	}
	q.put("pi-1", report("old"))
	old, _ := q.take("pi-1")
	q.put("pi-1", report("new"))
	q.putBack("pi-1", old)
	if got, found := q.take("pi-1"); !found || got.Inventory.Hostname != "new" {
		t.Errorf("got %+v, want the new report", got)
	}
	if _, found := q.take("pi-1"); found {
		t.Error("a report was taken twice")
	}
}

// TestMessages: the manifest comes last, so that a device that hears of it finds
// what it names.
func TestMessages(t *testing.T) {
	a, b := wire.DeploymentID{Namespace: "n", Name: "a"}, wire.DeploymentID{Namespace: "n", Name: "b"}
	s := store{e: newEngine(logr.Discard())}
	m := wire.Manifest{Generation: 3, NotAfter: time.Unix(1_900_000_000, 0)}
	got, err := s.messages(fleet.DeviceWrite{
		Device: "pi-1", Put: []fleet.Put{{Deployment: a, Score: []byte("score")}}, Delete: []wire.DeploymentID{b}, Manifest: m,
	})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.e.o.Signer.Sign("pi-1", m)
	if err != nil {
		t.Fatal(err)
	}
	want := []bus.Message{
		{Key: "pi-1.n.a", Value: []byte("score")},
		{Key: "pi-1.n.b", Delete: true},
		{Key: "pi-1", Value: signed},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestConvergesOnce: nothing is taken from the core before the last source is
// read, in whatever order they end, and a replay of states holds it again.
func TestConvergesOnce(t *testing.T) {
	e := newEngine(logr.Discard())
	for _, s := range []source{heartbeatSource, storedSource, infoSource} {
		e.replayed(s)
		if e.core.Converged() {
			t.Fatalf("converged after source %d, before the states are read", s)
		}
	}
	stateFollower{e}.CaughtUp()
	if !e.core.Converged() {
		t.Fatal("not converged although everything is read")
	}
	stateFollower{e}.Reset()
	if e.core.Converged() {
		t.Error("converged while the states are read again")
	}
	heartbeatFollower{e}.Reset()
	stateFollower{e}.CaughtUp()
	if !e.core.Converged() {
		t.Error("not converged after the states were read again")
	}
}

// TestHolding explains what a deletion waits for.
func TestHolding(t *testing.T) {
	e := newEngine(logr.Discard())
	id := wire.DeploymentID{Namespace: "n", Name: "a"}
	check := func(want string) {
		t.Helper()
		if got := e.Holding(id); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("it waits for %q, want %q", got, want)
		}
	}
	check("cannot be reached")
	e.connected.Store(true)
	check("being read")
	e.problem = errors.New("no such stream")
	check("no such stream")
	e.problem = nil
	e.core.LoadStored("pi-1", id, score.DigestOf(nil))
	e.core.LoadManifest("pi-1", wire.Manifest{Generation: 1, Deployments: map[string]wire.ManifestEntry{"n.a": {Digest: score.DigestOf(nil)}}}, true)
	for _, s := range []source{heartbeatSource, storedSource, infoSource, stateSource} {
		e.replayed(s)
	}
	check("for 1 devices")
	e.replaying(storedSource, (*fleet.Fleet).ResetStored)
	check("being read")
	e.replayed(storedSource)
	check("")
}

// TestMetrics are named as Prometheus wants it and know no device.
func TestMetrics(t *testing.T) {
	e := newEngine(logr.Discard())
	e.SetDevice("pi-1", &v1alpha1.Device{})
	e.metrics.wrote(true)
	e.poison.found(wire.DeviceInfos, "k", errors.New("bad"))
	problems, err := testutil.CollectAndLint(e.Collector())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(e.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if strings.Contains(f.String(), "pi-1") {
			t.Errorf("%s names a device", f.GetName())
		}
	}
}

// BenchmarkState is the way of one state from the bucket into the counters.
func BenchmarkState(b *testing.B) {
	e := newEngine(logr.Discard())
	dep := wire.DeploymentID{Namespace: "default", Name: "web"}
	states := [2][]byte{}
	for i, phase := range []wire.Phase{wire.PhaseSucceeded, wire.PhaseFailed} {
		data, err := wire.DeviceState{Phase: phase, Reason: "Reason", Digest: score.DigestOf(nil), Containers: []wire.ContainerRef{{Service: "web", ID: "0123456789ab"}}}.Encode()
		if err != nil {
			b.Fatal(err)
		}
		states[i] = data
	}
	const devices = 1000
	keys := make([]string, devices)
	for i := range keys {
		id := wire.DeviceID(fmt.Sprintf("pi-%d", i))
		e.SetDevice(id, &v1alpha1.Device{})
		keys[i] = wire.DeploymentKey(id, dep)
	}
	f, at := stateFollower{e}, time.Now()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f.Entry(bus.Entry{Key: keys[i%devices], Value: states[i/devices%2], At: at})
	}
}
