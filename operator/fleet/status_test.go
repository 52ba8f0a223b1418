package fleet

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// webWorld has two devices, a and b, with a recent heartbeat each, and the
// Deployment default/web on both; nothing is left to do.
func webWorld(t *testing.T) (*world, Deployment) {
	t.Helper()
	w := newWorld()
	d := Deployment{ID: testID("web"), Selector: everyDevice}
	d.Score, d.Digest = testScore(1)
	for _, id := range []wire.DeviceID{"a", "b"} {
		w.setDevice(id, nil)
		w.heartbeat(id, wire.Heartbeat{Session: "0000000a"})
	}
	w.setDeployment(d)
	w.f.Converge()
	w.settle(t, true)
	return w, d
}

func stateOf(d Deployment, p wire.Phase, message string) *wire.DeviceState {
	return &wire.DeviceState{Phase: p, Reason: "Because", Message: message, Digest: d.Digest}
}

// conditionsOf is the true conditions and Ready, each with its reason.
func conditionsOf(s v1alpha1.DeploymentStatus) map[string]string {
	got := map[string]string{}
	for _, c := range s.Conditions {
		got[c.Type] = string(c.Status) + " " + c.Reason
	}
	return got
}

func TestConditions(t *testing.T) {
	cases := map[string]struct {
		reason string
		happen func(w *world, d Deployment)
		want   map[string]string
		event  string
	}{
		"Progressing": {
			reason: "one of two reachable devices is to follow",
			happen: func(w *world, d Deployment) { w.report(pairKey{"a", d.ID}, stateOf(d, wire.PhaseSucceeded, "")) },
			want:   map[string]string{"Ready": "False Progressing", "Reconciling": "True Progressing"},
		},
		"Succeeded": {
			reason: "every device runs it",
			happen: func(w *world, d Deployment) {
				w.report(pairKey{"a", d.ID}, stateOf(d, wire.PhaseSucceeded, ""))
				w.report(pairKey{"b", d.ID}, stateOf(d, wire.PhaseSucceeded, ""))
			},
			want: map[string]string{"Ready": "True Succeeded"}, event: "Normal Succeeded",
		},
		"Failed": {
			reason: "nobody is to follow, and one failed",
			happen: func(w *world, d Deployment) {
				w.report(pairKey{"a", d.ID}, stateOf(d, wire.PhaseSucceeded, ""))
				w.report(pairKey{"b", d.ID}, stateOf(d, wire.PhaseFailed, "no space left"))
			},
			want: map[string]string{"Ready": "False DevicesFailed", "Stalled": "True DevicesFailed"}, event: "Warning DevicesFailed",
		},
		"Unreachable": {
			reason: "a device that is offline holds nothing up",
			happen: func(w *world, d Deployment) {
				w.report(pairKey{"a", d.ID}, stateOf(d, wire.PhaseSucceeded, ""))
				w.now = w.now.Add(time.Hour)
				w.heartbeat("a", wire.Heartbeat{Session: "0000000a"})
			},
			want: map[string]string{"Ready": "True Succeeded"}, event: "Normal Succeeded",
		},
		"OlderVersion": {
			reason: "a report on another version says nothing of this one",
			happen: func(w *world, d Deployment) {
				_, d.Digest = testScore(9)
				w.report(pairKey{"a", d.ID}, stateOf(d, wire.PhaseFailed, "old"))
			},
			want: map[string]string{"Ready": "False Progressing", "Reconciling": "True Progressing"},
		},
		"NoMatch": {
			reason: "no device is no failure",
			happen: func(w *world, d Deployment) {
				d.Selector = metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
				w.setDeployment(d)
			},
			want: map[string]string{"Ready": "True NoDevicesMatch"}, event: "Normal NoDevicesMatch",
		},
		"Paused": {
			reason: "held back by the user",
			happen: func(w *world, d Deployment) { d.Paused = true; w.setDeployment(d) },
			want:   map[string]string{"Ready": "False Paused"}, event: "Normal Paused",
		},
		"Invalid": {
			reason: "only a change by the user helps, paused or not",
			happen: func(w *world, d Deployment) {
				d.Paused, d.Invalid, d.Score, d.Digest = true, "spec.score: no", nil, ""
				w.setDeployment(d)
			},
			want: map[string]string{"Ready": "False InvalidSpec", "Stalled": "True InvalidSpec"}, event: "Warning InvalidSpec",
		},
		"Deleting": {
			reason: "it is on its way out",
			happen: func(w *world, d Deployment) { d.Deleting = true; w.setDeployment(d) },
			want:   map[string]string{"Ready": "False Deleting", "Reconciling": "True Deleting"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w, d := webWorld(t)
			tc.happen(w, d)
			w.now = w.now.Add(time.Second)
			status, event := w.deployments[d.ID].Status, ""
			for _, p := range w.f.TakeStatus(w.now, 10) {
				status = p.Status
				if p.Event != nil {
					event = p.Event.Type + " " + p.Event.Reason
				}
			}
			if diff := cmp.Diff(tc.want, conditionsOf(status)); diff != "" || event != tc.event {
				t.Errorf("%s: event %q, want %q; conditions (-want +got):\n%s", tc.reason, event, tc.event, diff)
			}
		})
	}
}

// TestStatusOnceASecond: however many reports come in, a Deployment is patched at
// most once a second, and the last patch says it all.
func TestStatusOnceASecond(t *testing.T) {
	w, d := webWorld(t)
	w.now = w.now.Add(time.Hour)
	w.heartbeat("a", wire.Heartbeat{Session: "0000000a"})
	begin, patches := w.now, 0
	for i := range 1000 {
		w.now = w.now.Add(10 * time.Millisecond)
		w.report(pairKey{"a", d.ID}, stateOf(d, []wire.Phase{wire.PhaseSucceeded, wire.PhasePending}[i%2], ""))
		for _, p := range w.f.TakeStatus(w.now, 10) {
			patches++
			w.deployments[d.ID].Status = p.Status
			w.f.StatusWritten(p, true)
		}
	}
	if seconds := int(w.now.Sub(begin)/time.Second) + 1; patches > seconds {
		t.Errorf("%d patches in %d seconds", patches, seconds)
	}
	w.settle(t, true)
	w.checkSettled(t)
}

// TestHeartbeatsCostNothing: heartbeats that come in time have no effect.
func TestHeartbeatsCostNothing(t *testing.T) {
	w, _ := webWorld(t)
	for range 1000 {
		w.now = w.now.Add(wire.HeartbeatInterval)
		w.heartbeat("a", wire.Heartbeat{Session: "0000000a", Generation: 1})
		w.heartbeat("b", wire.Heartbeat{Session: "0000000a", Generation: 1})
		w.checkQuiet(t)
	}
}

func TestStatusPatches(t *testing.T) {
	w, d := webWorld(t)
	at := w.now.Add(5 * time.Second)
	w.now = at
	w.report(pairKey{"a", d.ID}, stateOf(d, wire.PhaseFailed, "first"))
	p := w.f.TakeStatus(w.now.Add(time.Second), 10)
	if len(p) != 1 || !p[0].Since.Equal(at) || p[0].Status.Aggregate.LastError.Message != "first" {
		t.Fatalf("patches: %+v", p)
	}
	w.report(pairKey{"b", d.ID}, stateOf(d, wire.PhaseSucceeded, ""))
	if again := w.f.TakeStatus(w.now.Add(2*time.Second), 10); len(again) > 0 {
		t.Fatalf("taken twice while in flight: %+v", again)
	}
	w.f.StatusWritten(StatusPatch{ID: d.ID, UID: "another", Status: p[0].Status}, true)
	w.f.StatusWritten(p[0], false)
	if stats := w.f.Stats(); stats.DirtyStatuses != 1 || !stats.OldestDirty.Equal(at) {
		t.Fatalf("a patch that failed keeps its age: %+v", stats)
	}
	again := w.f.TakeStatus(w.now.Add(3*time.Second), 10)
	if len(again) != 1 || again[0].Status.Aggregate.Failed != 1 || again[0].Status.Aggregate.Succeeded != 1 {
		t.Fatalf("patch after a failure: %+v", again)
	}
	w.f.StatusWritten(again[0], true)

	// The same device fails on, with another message.
	w.report(pairKey{"a", d.ID}, stateOf(d, wire.PhaseFailed, "second"))
	next := w.f.TakeStatus(w.now.Add(4*time.Second), 10)
	if len(next) != 1 || next[0].Status.Aggregate.LastError.Message != "second" || next[0].Event != nil {
		t.Fatalf("patches: %+v", next)
	}

	// A resource that was made anew gets nothing of the old one's.
	w.f.RemoveDeployment(d.ID)
	d.UID = "uid-2"
	w.f.SetDeployment(d)
	w.f.StatusWritten(next[0], true)
	anew := w.f.TakeStatus(w.now.Add(5*time.Second), 10)
	if len(anew) != 1 || anew[0].UID != "uid-2" {
		t.Fatalf("patches: %+v", anew)
	}
}

// TestStatusOldestFirst: with a small budget the change that has waited longest
// goes first.
func TestStatusOldestFirst(t *testing.T) {
	w := newWorld()
	w.f.Converge()
	for i := range 5 {
		w.setDeployment(Deployment{ID: testID(fmt.Sprintf("app%d", 4-i)), Selector: everyDevice})
	}
	var order []string
	for range 5 {
		for _, p := range w.f.TakeStatus(w.now, 1) {
			order = append(order, p.ID.Name)
		}
	}
	if diff := cmp.Diff([]string{"app4", "app3", "app2", "app1", "app0"}, order); diff != "" {
		t.Error(diff)
	}
}

// TestObserveStateIsCheap: a state that says nothing new allocates nothing.
func TestObserveStateIsCheap(t *testing.T) {
	w, d := webWorld(t)
	for _, s := range []*wire.DeviceState{stateOf(d, wire.PhaseSucceeded, ""), stateOf(d, wire.PhaseFailed, "why")} {
		if allocs := testing.AllocsPerRun(100, func() { w.f.ObserveState("a", d.ID, s, w.now) }); allocs > 0 {
			t.Errorf("%s: %v allocations", s.Phase, allocs)
		}
	}
}

// TestNewVersion: another score is written to every device, nobody has it yet,
// and the error of the version before is no error of this one.
func TestNewVersion(t *testing.T) {
	w, d := webWorld(t)
	w.report(pairKey{"a", d.ID}, stateOf(d, wire.PhaseFailed, "version 1"))
	w.report(pairKey{"b", d.ID}, stateOf(d, wire.PhaseSucceeded, ""))
	w.settle(t, true)
	if got := w.deployments[d.ID].Status.Aggregate; got.LastError == nil || got.Failed != 1 || got.Succeeded != 1 {
		t.Fatalf("version 1: %+v", got)
	}
	d.Score, d.Digest = testScore(2)
	w.setDeployment(d)
	w.settle(t, true)
	if got := w.deployments[d.ID].Status.Aggregate; got.LastError != nil || got.Pending != 2 {
		t.Errorf("version 2: %+v", got)
	}
	for id, s := range w.store {
		if s.entry(d.ID) != d.Digest || s.keys[d.ID] != d.Digest || s.manifest.Deployments[d.ID.Token()].Revision != 2 {
			t.Errorf("%s: stored %+v", id, s)
		}
	}
	w.report(pairKey{"a", d.ID}, stateOf(d, wire.PhaseFailed, "version 2"))
	w.settle(t, true)
	w.report(pairKey{"a", d.ID}, stateOf(d, wire.PhaseSucceeded, ""))
	w.settle(t, true)
	if got := w.deployments[d.ID].Status.Aggregate; got.LastError != nil || got.Succeeded != 1 {
		t.Errorf("after it recovered: %+v", got)
	}
}

// TestPause: what is stored stays while paused, whatever else changes, and
// follows afterwards; deletion does not wait.
func TestPause(t *testing.T) {
	w, d := webWorld(t)
	_, first := testScore(1)
	d.Paused = true
	d.Score, d.Digest = testScore(2)
	d.Selector = metav1.LabelSelector{MatchLabels: map[string]string{"env": "prod"}}
	w.setDeployment(d)
	w.setDevice("c", map[string]string{"env": "prod"})
	w.settle(t, true)
	if a, c := w.store["a"].entry(d.ID), w.shelf("c").entry(d.ID); a != first || c != "" {
		t.Errorf("paused: %q on a, %q on c", a, c)
	}
	d.Paused = false
	w.setDeployment(d)
	w.settle(t, true)
	if a, c := w.store["a"].entry(d.ID), w.shelf("c").entry(d.ID); a != "" || c != d.Digest {
		t.Errorf("not paused: %q on a, %q on c", a, c)
	}
	d.Paused, d.Deleting = true, true
	w.setDeployment(d)
	w.settle(t, true)
	if w.f.HeldBy(d.ID) != 0 {
		t.Errorf("deleted while paused: held by %d", w.f.HeldBy(d.ID))
	}
}
