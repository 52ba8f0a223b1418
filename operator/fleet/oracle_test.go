package fleet

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// What must hold of a Fleet's effects and counters, told from the world around
// it by brute force.

// take takes writes and holds each that is made anew against what is allowed.
func (w *world) take(t tester, messages int) []DeviceWrite {
	t.Helper()
	taken := w.f.TakeWrites(w.now, messages)
	if !slices.IsSortedFunc(taken, func(a, b DeviceWrite) int { return strings.Compare(string(a.Device), string(b.Device)) }) {
		t.Fatalf("writes are not sorted")
	}
	for _, dw := range taken {
		s := w.shelf(dw.Device)
		if s.failed != nil {
			if diff := cmp.Diff(*s.failed, dw, cmp.AllowUnexported(DeviceWrite{})); diff != "" {
				t.Fatalf("a write that failed is not taken again as it was:\n%s", diff)
			}
			continue
		}
		w.checkNew(t, dw)
	}
	return taken
}

func (w *world) checkNew(t tester, dw DeviceWrite) {
	t.Helper()
	s := w.shelf(dw.Device)
	if agent := w.beats[dw.Device].heartbeat.Generation; dw.Manifest.Generation <= max(agent, s.issued) {
		t.Fatalf("%s: generation %d; the agent holds %d, and %d was issued", dw.Device, dw.Manifest.Generation, agent, s.issued)
	}
	s.issued = dw.Manifest.Generation
	for _, put := range dw.Put {
		d := w.deployments[put.Deployment]
		_, reported := w.states[pairKey{dw.Device, put.Deployment}]
		held := d != nil && (d.Paused || d.Invalid != "")
		if d == nil || !w.matches(d, dw.Device) || held && (!reported && s.entry(d.ID) != d.Digest || s.keys[d.ID] != "") {
			t.Fatalf("%s is put for %s: %+v", put.Deployment, dw.Device, d)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.entries())) {
		before, after := s.manifest.Deployments[id], dw.Manifest.Deployments[id]
		if before.Digest == after.Digest && before.Revision != after.Revision {
			t.Fatalf("%s on %s: revision of the same digest goes from %d to %d", id, dw.Device, before.Revision, after.Revision)
		}
		if after.Digest == "" {
			w.checkDrop(t, dw.Device, id)
		}
	}
	for _, id := range dw.Delete {
		w.checkDrop(t, dw.Device, id.Token())
	}
}

// checkDrop tells whether something may be taken back.
func (w *world) checkDrop(t tester, device wire.DeviceID, token string) {
	t.Helper()
	id, _ := wire.ParseDeploymentToken(token)
	d := w.deployments[id]
	switch {
	case d == nil && !w.confirmed[id]:
		t.Fatalf("unconfirmed %s is taken from %s", id, device)
	case d == nil, d.Deleting, w.removed[device]:
	case w.devices[device] == nil:
		t.Fatalf("%s is taken from %s, which is unknown", id, device)
	case d.Paused, d.Invalid != "", w.matches(d, device):
		t.Fatalf("%s is taken from %s: %+v", id, device, d)
	}
}

// matches is the brute-force answer, from Kubernetes' own selector.
func (w *world) matches(d *Deployment, id wire.DeviceID) bool {
	r := w.devices[id]
	if r == nil || d.Deleting || len(d.Selector.MatchLabels)+len(d.Selector.MatchExpressions) == 0 {
		return false
	}
	selector, err := metav1.LabelSelectorAsSelector(&d.Selector)
	if err != nil {
		return false
	}
	has := labels.Set(maps.Clone(r.labels))
	if has == nil {
		has = labels.Set{}
	}
	has[v1alpha1.LabelDeviceID] = string(id)
	return selector.Matches(has)
}

// silent tells whether a device could have been heard for too long and was not.
func (w *world) silent(id wire.DeviceID) bool {
	heard := w.beats[id].at // the zero time for none
	if spared := w.spared[id]; spared.After(heard) {
		heard = spared
	}
	return w.now.Sub(heard) > wire.HeartbeatTimeout
}

// aggregate is the brute-force recount.
func (w *world) aggregate(d *Deployment) v1alpha1.Aggregate {
	var a v1alpha1.Aggregate
	for _, id := range slices.Sorted(maps.Keys(w.devices)) {
		if !w.matches(d, id) {
			continue
		}
		a.MatchedDeviceCount++
		if w.silent(id) {
			a.Unreachable++
		}
		r, reported := w.states[pairKey{id, d.ID}]
		switch {
		case !reported || r.state.Digest != d.Digest || r.state.Phase == wire.PhasePending:
			a.Pending++
		case r.state.Phase == wire.PhaseSucceeded:
			a.Succeeded++
		default:
			a.Failed++
			if a.LastError == nil || r.at.After(a.LastError.Time.Time) {
				a.LastError = &v1alpha1.LastError{Device: string(id), Reason: r.state.Reason, Message: r.state.Message, Time: metav1.NewTime(r.at)}
			}
		}
	}
	return a
}

// checkCounters holds every counter against two recounts.
func (w *world) checkCounters(t tester) {
	t.Helper()
	w.f.advance(w.now)
	if found := w.f.Audit(len(w.f.deployments)); len(found) > 0 {
		t.Fatalf("audit: %+v", found)
	}
	for id, d := range w.deployments {
		dep := w.f.deployments[id]
		counted := dep.aggregate()
		counted.LastError = w.f.lastError(dep)
		if diff := cmp.Diff(w.aggregate(d), counted, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s: aggregate (-recount +counters):\n%s", id, diff)
		}
		if d.Status.ObservedGeneration > d.Generation {
			t.Fatalf("%s: observed generation %d of %d", id, d.Status.ObservedGeneration, d.Generation)
		}
	}
	stats := w.f.Stats()
	if stats.Devices != len(w.devices) || stats.Deployments != len(w.deployments) {
		t.Fatalf("stats: %+v; have %d devices, %d deployments", stats, len(w.devices), len(w.deployments))
	}
}

// checkSettled holds what is stored, and the statuses, against brute force. It
// is called when no effect is left.
func (w *world) checkSettled(t tester) {
	t.Helper()
	for id, s := range w.store {
		w.checkSigned(t, id, s)
		for dep := range maps.Keys(w.f.deployments) {
			w.checkPlace(t, s, pairKey{id, dep})
		}
	}
	for id, d := range w.deployments {
		if diff := cmp.Diff(w.aggregate(d), d.Status.Aggregate, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s: aggregate (-recount +status):\n%s", id, diff)
		}
		if d.Status.ObservedGeneration != d.Generation {
			t.Fatalf("%s: observed generation %d of %d", id, d.Status.ObservedGeneration, d.Generation)
		}
	}
	for id := range w.devices {
		w.checkGrants(t, id)
		w.checkHold(t, id)
		b, s := w.beats[id], w.store[id]
		if b.heartbeat.Generation > 0 && (s == nil || s.manifest == nil || s.manifest.Generation < b.heartbeat.Generation) {
			t.Fatalf("%s holds generation %d, which is above the stored manifest's", id, b.heartbeat.Generation)
		}
	}
}

// checkSigned wants each manifest that matters to be signed, and valid for one to
// two periods.
func (w *world) checkSigned(t tester, id wire.DeviceID, s *shelf) {
	t.Helper()
	if s.manifest == nil || w.devices[id] == nil {
		return
	}
	if left := s.manifest.NotAfter.Sub(w.now); s.foreign || left <= DefaultRenewal || left > 2*DefaultRenewal {
		t.Fatalf("manifest of %s: foreign is %v, and it is valid for %s more", id, s.foreign, left)
	}
}

// checkHold wants the manifest to say what the resource asks for, and the resource what
// the device says.
func (w *world) checkHold(t tester, id wire.DeviceID) {
	t.Helper()
	r := w.devices[id]
	want, err := time.Parse(time.RFC3339, r.hold)
	if s := w.shelf(id); s.manifest == nil && err == nil || s.manifest != nil && !s.manifest.HoldUntil.Equal(want) {
		t.Fatalf("manifest of %s: %+v, want it held until %s", id, s.manifest, want)
	}
	status, reason, says := metav1.ConditionStatus(""), "", ""
	switch h := w.held[id]; {
	case h != nil:
		status, says = metav1.ConditionTrue, h.Until.UTC().Format(time.RFC3339)
		reason = map[wire.Holder]string{wire.HeldByDevice: "HeldByDevice", wire.HeldByCluster: "HeldByCluster"}[h.By]
	case err != nil && r.hold != "":
		status, reason, says = metav1.ConditionFalse, "InvalidHold", v1alpha1.AnnotationHoldUntil
	}
	c := meta.FindStatusCondition(r.conditions, v1alpha1.ConditionHeld)
	if c == nil {
		c = &metav1.Condition{}
	}
	if c.Status != status || c.Reason != reason || !strings.Contains(c.Message, says) {
		t.Fatalf("%s: %+v, want %s, %s with %q", id, c, status, reason, says)
	}
}

// checkGrants wants a device to be able to read what the Deployments name that it
// has. Of one that is held it is not known what the stored score names.
func (w *world) checkGrants(t tester, id wire.DeviceID) {
	t.Helper()
	want, got := map[secret.Ref]bool{}, map[secret.Ref]bool{}
	held := func(d *Deployment) bool { return d != nil && (d.Paused || d.Invalid != "") }
	for dep, d := range w.deployments {
		if held(d) || w.shelf(id).entry(dep) == "" {
			continue
		}
		for _, name := range d.Secrets {
			want[secret.Ref{Deployment: dep, Name: name}] = true
		}
	}
	for _, ref := range w.granted[id] {
		if !held(w.deployments[ref.Deployment]) {
			got[ref] = true
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s may read (-want +got):\n%s", id, diff)
	}
}

// checkPlace holds one place in the store against what it shall be.
func (w *world) checkPlace(t tester, s *shelf, k pairKey) {
	t.Helper()
	key := s.keys[k.deployment]
	var entry score.Digest
	if s.manifest != nil {
		entry = s.manifest.Deployments[k.deployment.Token()].Digest
	}
	d := w.deployments[k.deployment]
	switch {
	case d != nil && d.Deleting, d == nil && w.f.deployments[k.deployment].gone, d != nil && w.removed[k.device]:
		if key != "" || entry != "" {
			t.Fatalf("%v is stored (key %q, entry %q) though it is taken back", k, key, entry)
		}
	case d == nil, w.devices[k.device] == nil, d.Paused, d.Invalid != "":
		// As it was stored: land and the held checks watch over it.
	case w.matches(d, k.device):
		if key != d.Digest || entry != d.Digest {
			t.Fatalf("%v: key %q, entry %q, want %q", k, key, entry, d.Digest)
		}
	case key != "" || entry != "":
		t.Fatalf("%v is stored (key %q, entry %q) though it does not match", k, key, entry)
	}
}

// checkQuiet wants no effect at all.
func (w *world) checkQuiet(t tester) {
	t.Helper()
	if effects := w.f.TakeWrites(w.now, 1000); len(effects) > 0 {
		t.Fatalf("writes without a cause: %+v", effects)
	}
	if effects := w.f.TakeStatus(w.now, 100); len(effects) > 0 {
		t.Fatalf("status patches without a cause: %+v; base %+v", effects[0], w.deployments[effects[0].ID].Status)
	}
	if effects := w.f.TakeDevices(w.now, 100); len(effects) > 0 {
		t.Fatalf("device patches without a cause: %+v", effects)
	}
}
