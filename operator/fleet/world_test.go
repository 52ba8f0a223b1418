package fleet

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/secret"
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
	spared      map[wire.DeviceID]time.Time // reachable when nothing could be heard, up to then
	store       map[wire.DeviceID]*shelf
	granted     map[wire.DeviceID][]secret.Ref
	held        map[wire.DeviceID]*wire.Hold // as the devices say
}

type resource struct {
	labels     map[string]string
	hold       string // the annotation
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
	foreign  bool // the manifest is not signed as it would be now
	keys     map[wire.DeploymentID]score.Digest
	issued   uint64       // highest generation that was ever taken
	failed   *DeviceWrite // whose end is not known
}

func (s *shelf) entries() map[string]wire.ManifestEntry {
	if s.manifest == nil {
		return nil
	}
	return s.manifest.Deployments
}

func (s *shelf) entry(id wire.DeploymentID) score.Digest { return s.entries()[id.Token()].Digest }

func newWorld() *world {
	w := &world{
		f: New(Options{Secrets: true}), now: time.Unix(1_800_000_000, 0).UTC(),
		devices: map[wire.DeviceID]*resource{}, removed: map[wire.DeviceID]bool{},
		deployments: map[wire.DeploymentID]*Deployment{}, confirmed: map[wire.DeploymentID]bool{},
		states: map[pairKey]report{}, beats: map[wire.DeviceID]beat{}, spared: map[wire.DeviceID]time.Time{},
		store: map[wire.DeviceID]*shelf{}, granted: map[wire.DeviceID][]secret.Ref{},
		held: map[wire.DeviceID]*wire.Hold{},
	}
	w.f.Hearing(true, w.now)
	return w
}

func (w *world) shelf(id wire.DeviceID) *shelf {
	if w.store[id] == nil {
		w.store[id] = &shelf{keys: map[wire.DeploymentID]score.Digest{}}
	}
	return w.store[id]
}

func testID(name string) wire.DeploymentID {
	return wire.DeploymentID{Namespace: "default", Name: name}
}

func testDevice(i int) wire.DeviceID { return wire.DeviceID(fmt.Sprintf("device-%d", i)) }

func testRandom() *rand.Rand { return rand.New(rand.NewPCG(1, 1)) }

// testSecrets are the secrets that the score of that version names.
func testSecrets(version int) []string { return [][]string{nil, {"db"}, {"api", "db"}}[version] }

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
	w.f.SetHold(id, w.devices[id].hold)
}

// setHold changes the annotation of a device that has a resource.
func (w *world) setHold(id wire.DeviceID, annotation string) {
	if r := w.devices[id]; r != nil {
		r.hold = annotation
		w.f.SetHold(id, annotation)
	}
}

// sayHeld is what the device says of itself.
func (w *world) sayHeld(id wire.DeviceID, h *wire.Hold) {
	w.held[id] = h
	w.f.ObserveHold(id, h)
}

func (w *world) removeDevice(id wire.DeviceID) {
	if w.devices[id] != nil {
		w.removed[id] = true
	}
	if w.devices[id] != nil {
		delete(w.held, id)
	}
	delete(w.devices, id)
	delete(w.spared, id)
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

// outage is a time in which no sign of life can arrive.
func (w *world) outage(d time.Duration) {
	w.f.Hearing(false, w.now)
	end := w.now.Add(d)
	for id := range w.devices {
		if !w.silent(id) {
			w.spared[id] = end
		}
	}
	w.now = end
	w.f.Hearing(true, w.now)
}

// load tells a Fleet everything that the world holds, in a random order and some
// of it twice.
func (w *world) load(f *Fleet, random *rand.Rand) {
	events := w.storeEvents(f)
	for id, r := range w.devices {
		events["device "+string(id)] = func() {
			f.SetDevice(id, r.labels, r.conditions)
			f.SetHold(id, r.hold)
		}
	}
	for id, d := range w.deployments {
		events["deployment "+id.Token()] = func() { f.SetDeployment(*d) }
	}
	for k, r := range w.states {
		events["state "+wire.DeploymentKey(k.device, k.deployment)] = func() { f.ObserveState(k.device, k.deployment, &r.state, r.at) }
	}
	for id, h := range w.held {
		events["hold "+string(id)] = func() { f.ObserveHold(id, h) }
	}
	for id, b := range w.beats {
		events["heartbeat "+string(id)] = func() { f.ObserveHeartbeat(id, b.heartbeat, b.at) }
	}
	shuffled(events, random)
}

func (w *world) storeEvents(f *Fleet) map[string]func() {
	events := map[string]func(){}
	for id, s := range w.store {
		if s.manifest != nil {
			events["manifest "+string(id)] = func() { f.LoadManifest(id, *s.manifest, !s.foreign) }
		}
		for dep, digest := range s.keys {
			events["stored "+wire.DeploymentKey(id, dep)] = func() { f.LoadStored(id, dep, digest) }
		}
	}
	return events
}

// shuffled runs each event once or twice.
func shuffled(events map[string]func(), random *rand.Rand) {
	var order []string
	for _, name := range slices.Sorted(maps.Keys(events)) {
		order = append(order, name)
		if random.IntN(2) == 0 {
			order = append(order, name)
		}
	}
	random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	for _, name := range order {
		events[name]()
	}
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
		delete(s.keys, id)
	}
	for _, put := range dw.Put {
		s.keys[put.Deployment] = score.DigestOf(put.Score)
		if entry := dw.Manifest.Deployments[put.Deployment.Token()]; entry.Digest != s.keys[put.Deployment] {
			t.Fatalf("%s on %s: manifest says %s, stored is %s", put.Deployment, dw.Device, entry.Digest, s.keys[put.Deployment])
		}
	}
	s.manifest, s.foreign = &dw.Manifest, false
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
		w.f.Renew(w.now)
		writes := w.take(t, 1000)
		for _, dw := range writes {
			w.land(t, dw)
			w.f.Written(dw, true)
			w.shelf(dw.Device).failed = nil
		}
		statuses := w.f.TakeStatus(w.now, 100)
		for _, p := range statuses {
			w.patchStatus(t, p)
			w.f.StatusWritten(p, true)
		}
		devices := w.f.TakeDevices(w.now, 100)
		for _, p := range devices {
			w.patchDevice(p)
			w.f.DeviceWritten(p, true)
		}
		grants := w.f.TakeGrants(100)
		for _, g := range grants {
			w.granted[g.Device] = g.Secrets
			w.f.Granted(g, true)
		}
		if len(writes)+len(statuses)+len(devices)+len(grants) == 0 {
			return
		}
	}
	t.Fatalf("effects without end")
}

// patchStatus writes a status, and wants it to change something, and its
// transition times to move with their conditions.
func (w *world) patchStatus(t tester, p StatusPatch) {
	t.Helper()
	d := w.deployments[p.ID]
	if cmp.Equal(d.Status, p.Status, cmpopts.EquateEmpty()) {
		t.Fatalf("%s: patch without a change: %+v", p.ID, p.Status)
	}
	for _, c := range p.Status.Conditions {
		since := metav1.NewTime(w.now)
		if old := meta.FindStatusCondition(d.Status.Conditions, c.Type); old != nil && old.Status == c.Status {
			since = old.LastTransitionTime
		}
		if !c.LastTransitionTime.Equal(&since) {
			t.Fatalf("%s: %s since %s, want %s", p.ID, c.Type, c.LastTransitionTime, since)
		}
	}
	d.Status = p.Status
}

func (w *world) patchDevice(p DevicePatch) {
	if r := w.devices[p.ID]; r != nil {
		r.conditions = p.Conditions
	}
}

// restart is a new operator that reads everything anew.
func (w *world) restart(random *rand.Rand) {
	w.f = New(Options{Secrets: true})
	w.confirmed = map[wire.DeploymentID]bool{}
	w.removed = map[wire.DeviceID]bool{}
	clear(w.spared)
	for id, r := range w.devices {
		if meta.IsStatusConditionTrue(r.conditions, v1alpha1.ConditionReachable) || !w.silent(id) {
			w.spared[id] = w.now
		}
	}
	for _, s := range w.store {
		// A new operator knows what is stored, and nothing of what was issued.
		s.issued, s.failed = 0, nil
		if s.manifest != nil {
			s.issued = s.manifest.Generation
		}
	}
	w.load(w.f, random)
	w.f.Hearing(true, w.now)
	w.f.Converge()
}
