package fleet

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// tester is what *testing.T and *rapid.T have in common.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

// world is everything around a Fleet: the cluster's resources, the broker's
// buckets and the time. It carries effects out as the real ones would, and
// recounts by brute force.
type world struct {
	f           *Fleet
	now         time.Time
	devices     map[wire.DeviceID]*resource
	removed     map[wire.DeviceID]bool
	deployments map[wire.DeploymentID]*Deployment
	confirmed   map[wire.DeploymentID]bool // certainly gone since it was last set
	states      map[pairKey]report
	beats       map[wire.DeviceID]beat
	store       map[wire.DeviceID]*shelf
	scores      map[score.Digest]bool
}

type resource struct {
	labels     map[string]string
	conditions []metav1.Condition
}

type pairKey struct {
	device     wire.DeviceID
	deployment wire.DeploymentID
}

type report struct {
	state wire.DeviceState
	at    time.Time
}

type beat struct {
	heartbeat wire.Heartbeat
	at        time.Time
}

// shelf is what desired-state holds for one device.
type shelf struct {
	manifest *wire.Manifest
	keys     map[wire.DeploymentID]score.Digest
}

func newWorld() *world {
	return &world{
		f: New(Options{}), now: time.Unix(1_800_000_000, 0).UTC(),
		devices: map[wire.DeviceID]*resource{}, removed: map[wire.DeviceID]bool{},
		deployments: map[wire.DeploymentID]*Deployment{}, confirmed: map[wire.DeploymentID]bool{},
		states: map[pairKey]report{}, beats: map[wire.DeviceID]beat{}, store: map[wire.DeviceID]*shelf{},
	}
}

func (w *world) shelf(id wire.DeviceID) *shelf {
	if w.store[id] == nil {
		w.store[id] = &shelf{keys: map[wire.DeploymentID]score.Digest{}}
	}
	return w.store[id]
}

func testID(name string) wire.DeploymentID { return wire.DeploymentID{Namespace: "default", Name: name} }

func testScore(version int) ([]byte, score.Digest) {
	data := fmt.Appendf(nil, "score %d", version)
	return data, score.DigestOf(data)
}

func (w *world) setDevice(id wire.DeviceID, labels map[string]string) {
	if w.devices[id] == nil {
		w.devices[id] = &resource{}
	}
	w.devices[id].labels = labels
	delete(w.removed, id)
	w.f.SetDevice(id, labels, w.devices[id].conditions)
}

func (w *world) removeDevice(id wire.DeviceID) {
	if w.devices[id] != nil {
		w.removed[id] = true
	}
	delete(w.devices, id)
	w.f.RemoveDevice(id)
}

// setDeployment stores the resource as the API server would: with a new
// generation, and with the status that it has.
func (w *world) setDeployment(d Deployment) {
	d.UID, d.Generation = "uid-"+d.ID.Name, 1
	if old := w.deployments[d.ID]; old != nil {
		d.UID, d.Generation, d.Status = old.UID, old.Generation+1, old.Status
	}
	w.deployments[d.ID] = &d
	delete(w.confirmed, d.ID)
	w.f.SetDeployment(d)
}

func (w *world) removeDeployment(id wire.DeploymentID) {
	delete(w.deployments, id)
	w.confirmed[id] = true
	w.f.RemoveDeployment(id)
}

func (w *world) report(k pairKey, s *wire.DeviceState) {
	if s == nil {
		delete(w.states, k)
	} else {
		w.states[k] = report{*s, w.now}
	}
	w.f.ObserveState(k.device, k.deployment, s, w.now)
}

func (w *world) heartbeat(id wire.DeviceID, h wire.Heartbeat) {
	w.beats[id] = beat{h, w.now}
	w.f.ObserveHeartbeat(id, h, w.now)
}

// load tells a Fleet everything that the world holds, in a random order and some
// of it twice.
func (w *world) load(f *Fleet, random *rand.Rand) {
	var events []func()
	add := func(event func()) {
		for range 1 + random.IntN(2) {
			events = append(events, event)
		}
	}
	for id, r := range w.devices {
		add(func() { f.SetDevice(id, r.labels, r.conditions) })
	}
	for _, d := range w.deployments {
		add(func() { f.SetDeployment(*d) })
	}
	for k, r := range w.states {
		add(func() { f.ObserveState(k.device, k.deployment, &r.state, r.at) })
	}
	for id, b := range w.beats {
		add(func() { f.ObserveHeartbeat(id, b.heartbeat, b.at) })
	}
	for _, event := range w.storeEvents(f) {
		add(event)
	}
	random.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	for _, event := range events {
		event()
	}
}

func (w *world) storeEvents(f *Fleet) (events []func()) {
	for id, s := range w.store {
		if s.manifest != nil {
			events = append(events, func() { f.LoadManifest(id, *s.manifest) })
		}
		for dep, digest := range s.keys {
			events = append(events, func() { f.LoadStored(id, dep, digest) })
		}
	}
	return events
}

// land carries a write out, as an atomic batch does, and holds it against what
// must never happen.
func (w *world) land(t tester, dw DeviceWrite) {
	t.Helper()
	if dw.Messages() > 1000 || len(dw.Manifest.Deployments) > wire.MaxDeploymentsPerDevice {
		t.Fatalf("write of %d messages, manifest of %d", dw.Messages(), len(dw.Manifest.Deployments))
	}
	s := w.shelf(dw.Device)
	if s.manifest != nil && dw.Manifest.Generation < s.manifest.Generation {
		t.Fatalf("generation of %s goes from %d to %d", dw.Device, s.manifest.Generation, dw.Manifest.Generation)
	}
	for _, id := range dw.Delete {
		if w.deployments[id] == nil && !w.confirmed[id] {
			t.Fatalf("%s of unconfirmed %s is deleted", id, dw.Device)
		}
		delete(s.keys, id)
	}
	for _, put := range dw.Put {
		s.keys[put.Deployment] = score.DigestOf(put.Score)
		if entry := dw.Manifest.Deployments[put.Deployment.Token()]; entry.Digest != s.keys[put.Deployment] {
			t.Fatalf("%s on %s: manifest says %s, stored is %s", put.Deployment, dw.Device, entry.Digest, s.keys[put.Deployment])
		}
	}
	s.manifest = &dw.Manifest
}

// settle carries effects out until there are none. confirm makes live reads of
// what is unowned.
func (w *world) settle(t tester, confirm bool) {
	t.Helper()
	for range 1000 {
		w.now = w.now.Add(time.Second)
		if confirm {
			for _, id := range w.f.Unowned() {
				if w.deployments[id] == nil {
					w.confirmed[id] = true
					w.f.ConfirmGone(id)
				}
			}
		}
		writes := w.f.TakeWrites(1000)
		for _, dw := range writes {
			w.land(t, dw)
			w.f.Written(dw, true)
		}
		statuses := w.f.TakeStatus(w.now, 100)
		for _, p := range statuses {
			w.patchStatus(p)
			w.f.StatusWritten(p, true)
		}
		devices := w.f.TakeDevices(w.now, 100)
		for _, p := range devices {
			w.patchDevice(p)
			w.f.DeviceWritten(p, true)
		}
		if len(writes)+len(statuses)+len(devices) == 0 {
			return
		}
	}
	t.Fatalf("effects without end")
}

func (w *world) patchStatus(p StatusPatch) {
	if d := w.deployments[p.ID]; d != nil && d.UID == p.UID {
		d.Status = p.Status
	}
}

func (w *world) patchDevice(p DevicePatch) {
	if r := w.devices[p.ID]; r != nil {
		r.conditions = p.Conditions
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

// aggregate is the brute-force recount.
func (w *world) aggregate(d *Deployment) v1alpha1.Aggregate {
	var a v1alpha1.Aggregate
	for _, id := range slices.Sorted(maps.Keys(w.devices)) {
		if !w.matches(d, id) {
			continue
		}
		a.MatchedDeviceCount++
		if b, seen := w.beats[id]; !seen || w.now.Sub(b.at) > wire.HeartbeatTimeout {
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
		dep.lastError = w.f.lastError(dep)
		if diff := cmp.Diff(w.aggregate(d), dep.aggregate(), cmpopts.EquateEmpty()); diff != "" {
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
		b, s := w.beats[id], w.store[id]
		if b.heartbeat.Generation > 0 && (s == nil || s.manifest == nil || s.manifest.Generation < b.heartbeat.Generation) {
			t.Fatalf("%s holds generation %d, which is above the stored manifest's", id, b.heartbeat.Generation)
		}
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
	case d != nil && d.Deleting, d == nil && w.confirmed[k.deployment], d != nil && w.removed[k.device]:
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

// restart is a new operator that reads everything anew.
func (w *world) restart(random *rand.Rand) {
	w.f = New(Options{})
	w.confirmed = map[wire.DeploymentID]bool{}
	w.removed = map[wire.DeviceID]bool{}
	w.load(w.f, random)
	w.f.Converge()
}

// checkQuiet wants no effect at all.
func (w *world) checkQuiet(t tester) {
	t.Helper()
	if effects := w.f.TakeWrites(1000); len(effects) > 0 {
		t.Fatalf("writes without a cause: %+v", effects)
	}
	if effects := w.f.TakeStatus(w.now, 100); len(effects) > 0 {
		t.Fatalf("status patches without a cause: %+v; base %+v", effects[0], w.deployments[effects[0].ID].Status)
	}
	if effects := w.f.TakeDevices(w.now, 100); len(effects) > 0 {
		t.Fatalf("device patches without a cause: %+v", effects)
	}
}

var _ tester = (*testing.T)(nil)
