package fleet

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

func TestFirstWrite(t *testing.T) {
	w := newWorld()
	data, digest := testScore(1)
	w.setDevice("a", map[string]string{"env": "prod"})
	w.setDevice("b", nil)
	w.setDeployment(Deployment{ID: testID("web"), Score: data, Digest: digest, Selector: metav1.LabelSelector{MatchLabels: map[string]string{"env": "prod"}}})
	if got := w.f.TakeWrites(w.now, 100); len(got) > 0 {
		t.Fatalf("written before Converge: %+v", got)
	}
	w.f.Converge()
	got := w.f.TakeWrites(w.now, 100)
	want := []DeviceWrite{{
		Device: "a", Put: []Put{{Deployment: testID("web"), Score: data}},
		Manifest: wire.Manifest{Generation: 1, NotAfter: w.f.notAfter(w.f.byID["a"], w.now), Deployments: map[string]wire.ManifestEntry{"default.web": {Revision: 1, Digest: digest}}},
	}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(DeviceWrite{})); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	if w.f.HeldBy(testID("web")) != 1 {
		t.Error("a score that is being written holds its Deployment")
	}
	w.f.Written(got[0], true)
	w.f.Written(got[0], true) // said twice
	w.f.SetDevice("a", nil, nil)
	got = w.f.TakeWrites(w.now, 100)
	want = []DeviceWrite{{Device: "a", Delete: []wire.DeploymentID{testID("web")}, Manifest: wire.Manifest{Generation: 2, NotAfter: got[0].Manifest.NotAfter}}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(DeviceWrite{}), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("the manifest is written empty and never deleted (-want +got):\n%s", diff)
	}
}

// manyWorld has one device and n Deployments for it, app-0000 and on.
func manyWorld(n int) *world {
	w := newWorld()
	w.setDevice("a", nil)
	for i := range n {
		w.setDeployment(testDeployment(i))
	}
	w.f.Converge()
	return w
}

func testDeployment(i int) Deployment {
	d := Deployment{ID: testID(fmt.Sprintf("app-%04d", i)), Selector: everyDevice}
	d.Score, d.Digest = testScore(i)
	return d
}

// TestLargeWrites: what does not fit into one atomic batch takes several
// generations, each of which is true; what does not fit into a manifest waits.
func TestLargeWrites(t *testing.T) {
	w := manyWorld(wire.MaxDeploymentsPerDevice + 5)
	w.settle(t, true)
	s := w.store["a"]
	if len(s.keys) != wire.MaxDeploymentsPerDevice || s.manifest.Generation != 2 || w.f.Stats().OverLimit != 5 {
		t.Fatalf("%d keys, generation %d, %+v", len(s.keys), s.manifest.Generation, w.f.Stats())
	}
	if s.entry(testID("app-0999")) == "" || s.entry(testID("app-1000")) != "" {
		t.Error("the first by name have the room")
	}
	if got := w.deployments[testID("app-1004")].Status; conditionsOf(got)["Ready"] != "True Succeeded" || got.Aggregate.Pending != 1 {
		t.Errorf("one without room is pending, on a device that is not reachable: %+v", got)
	}
	for i := range 1000 {
		w.removeDeployment(testID(fmt.Sprintf("app-%04d", i)))
	}
	w.settle(t, true)
	if len(s.keys) != 5 || len(s.manifest.Deployments) != 5 || w.f.Stats().OverLimit != 0 {
		t.Errorf("%d keys, %d entries, %+v", len(s.keys), len(s.manifest.Deployments), w.f.Stats())
	}
}

// TestGeneration: above everything that anyone holds, and never above the largest.
func TestGeneration(t *testing.T) {
	cases := map[string]struct {
		reason        string
		stored, agent uint64
		want          []uint64
	}{
		"First":      {reason: "nothing is stored", want: []uint64{1}},
		"Next":       {reason: "on top of what is stored", stored: 7, want: []uint64{8}},
		"Behind":     {reason: "a device that is behind reads what is stored", stored: 7, agent: 3, want: []uint64{8}},
		"Lost":       {reason: "a device that is ahead saw a store that was lost", stored: 7, agent: 30, want: []uint64{31}},
		"Largest":    {reason: "nonsense ends at the largest", agent: wire.MaxGeneration, want: []uint64{wire.MaxGeneration}},
		"AtTheLimit": {reason: "and what is stored is still replaced", stored: wire.MaxGeneration, want: []uint64{wire.MaxGeneration}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := manyWorld(1)
			if tc.stored > 0 {
				w.f.LoadManifest("a", wire.Manifest{Generation: tc.stored, NotAfter: w.now.Add(2 * DefaultRenewal)}, true)
			}
			w.heartbeat("a", wire.Heartbeat{Session: "0000000a", Generation: tc.agent})
			var got []uint64
			for range 3 {
				for _, dw := range w.f.TakeWrites(w.now, 100) {
					got = append(got, dw.Manifest.Generation)
					w.f.Written(dw, true)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

// TestStoreLost: an agent that holds more than the store says so, and the
// manifest is written above it though nothing else changed; a paused Deployment
// that the device reports on comes back with it.
func TestStoreLost(t *testing.T) {
	w := manyWorld(2)
	w.settle(t, true)
	paused := *w.deployments[testID("app-0000")]
	paused.Paused = true
	w.setDeployment(paused)
	w.report(pairKey{"a", paused.ID}, stateOf(paused, wire.PhaseSucceeded, ""))
	w.settle(t, true)
	w.store["a"] = &shelf{keys: map[wire.DeploymentID]score.Digest{}}
	w.restart(testRandom())
	w.heartbeat("a", wire.Heartbeat{Session: "0000000a", Generation: 41})
	w.settle(t, true)
	if s := w.store["a"]; s.manifest.Generation != 42 || len(s.manifest.Deployments) != 2 || len(s.keys) != 2 {
		t.Errorf("stored: %+v", s)
	}

	w.devices["b"] = &resource{}
	w.f.SetDevice("b", nil, nil)
	w.settle(t, true)
	if s := w.store["b"]; s.entry(paused.ID) != "" || s.entry(testID("app-0001")) == "" {
		t.Errorf("a paused Deployment does not reach a new device: %+v", s)
	}
}

// TestUnknownDevice: a device without a resource is left alone, but for what is
// certainly to go: a finalizer waits for it.
func TestUnknownDevice(t *testing.T) {
	w := newWorld()
	d, e := testDeployment(0), testDeployment(1)
	m := &wire.Manifest{Generation: 3, Deployments: map[string]wire.ManifestEntry{}}
	w.store["stranger"] = &shelf{manifest: m, keys: map[wire.DeploymentID]score.Digest{}}
	for _, each := range []Deployment{d, e} {
		m.Deployments[each.ID.Token()] = wire.ManifestEntry{Revision: 1, Digest: each.Digest}
		w.store["stranger"].keys[each.ID] = each.Digest
	}
	w.load(w.f, testRandom())
	w.setDeployment(d)
	w.f.Converge()
	if diff := cmp.Diff([]wire.DeploymentID{e.ID}, w.f.Unowned()); diff != "" {
		t.Fatal(diff)
	}
	w.settle(t, false)
	if w.store["stranger"].manifest.Generation != 3 || w.f.HeldBy(d.ID) != 1 {
		t.Fatal("an unknown device was written to")
	}
	d.Deleting = true
	w.setDeployment(d)
	w.settle(t, false)
	if got := w.store["stranger"]; got.manifest.Generation != 4 || len(got.keys) != 1 || w.f.HeldBy(d.ID) != 0 {
		t.Errorf("deleted: stored %+v", got)
	}
	w.settle(t, true)
	if got := w.store["stranger"]; got.manifest.Generation != 5 || len(got.keys) != 0 {
		t.Errorf("confirmed: stored %+v", got)
	}
}

// TestMadeUpStates: a device that reports on Deployments that are not its own
// costs a bounded amount of memory, changes no counter, and leaves nothing behind.
func TestMadeUpStates(t *testing.T) {
	w, d := webWorld(t)
	for i := range wire.MaxDeploymentsPerDevice + 50 {
		kept := w.f.ObserveState("a", testID(fmt.Sprintf("made-up-%d", i)), stateOf(d, wire.PhaseSucceeded, ""), w.now)
		if kept != (i < wire.MaxDeploymentsPerDevice) {
			t.Errorf("made-up state %d: kept is %t", i, kept)
		}
	}
	if stats := w.f.Stats(); stats.DroppedStates != 50 || stats.Deployments != 1 {
		t.Errorf("stats: %+v", stats)
	}
	w.report(pairKey{"a", d.ID}, stateOf(d, wire.PhaseSucceeded, ""))
	w.checkCounters(t)
	for i := range wire.MaxDeploymentsPerDevice + 50 {
		w.f.ObserveState("a", testID(fmt.Sprintf("made-up-%d", i)), nil, w.now)
	}
	if len(w.f.deployments) != 1 || len(w.f.byID["a"].records) != 1 {
		t.Errorf("%d deployments, %d records are left", len(w.f.deployments), len(w.f.byID["a"].records))
	}
}

// TestInternedLabelsAreFreed: labels that come and go leave nothing behind.
func TestInternedLabelsAreFreed(t *testing.T) {
	w := newWorld()
	for i := range 100 {
		w.setDevice("a", map[string]string{fmt.Sprintf("key-%d", i): "x", "counter": fmt.Sprint(i)})
		d := testDeployment(0)
		d.Selector = metav1.LabelSelector{MatchLabels: map[string]string{"counter": fmt.Sprint(i), "other": fmt.Sprint(i)}}
		w.setDeployment(d)
	}
	w.removeDeployment(testDeployment(0).ID)
	w.removeDevice("a")
	if len(w.f.index.keys) > 0 || len(w.f.deployments) > 0 {
		t.Errorf("left: %v, %v", w.f.index.keys, w.f.deployments)
	}
}
