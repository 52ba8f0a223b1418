package fleet

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

var (
	drawKey    = rapid.SampledFrom([]string{"env", "zone", "role"})
	drawValue  = rapid.SampledFrom([]string{"a", "b", "c"})
	drawDevice = rapid.Custom(func(t *rapid.T) wire.DeviceID {
		return wire.DeviceID(fmt.Sprintf("d%d", rapid.IntRange(0, 3).Draw(t, "d")))
	})
	drawDeployment = rapid.Custom(func(t *rapid.T) wire.DeploymentID {
		return testID(fmt.Sprintf("app%d", rapid.IntRange(0, 2).Draw(t, "a")))
	})
	drawPair = rapid.Custom(func(t *rapid.T) pairKey {
		return pairKey{drawDevice.Draw(t, "device"), drawDeployment.Draw(t, "deployment")}
	})
	drawLabels = rapid.MapOfN(drawKey, drawValue, 0, 3)
)

var drawSelector = rapid.Custom(func(t *rapid.T) metav1.LabelSelector {
	s := metav1.LabelSelector{MatchLabels: rapid.MapOfN(drawKey, drawValue, 0, 2).Draw(t, "matchLabels")}
	for range rapid.IntRange(0, 2).Draw(t, "expressions") {
		e := metav1.LabelSelectorRequirement{
			Key: rapid.SampledFrom([]string{"env", "zone", "role", v1alpha1.LabelDeviceID}).Draw(t, "key"),
			Operator: rapid.SampledFrom([]metav1.LabelSelectorOperator{
				metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist,
			}).Draw(t, "operator"),
		}
		if e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpNotIn {
			e.Values = rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d0", "d1"}), 1, 3).Draw(t, "values")
		}
		s.MatchExpressions = append(s.MatchExpressions, e)
	}
	return s
})

var everyDevice = metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
	{Key: v1alpha1.LabelDeviceID, Operator: metav1.LabelSelectorOpExists},
}}

var drawSpec = rapid.Custom(func(t *rapid.T) Deployment {
	d := Deployment{ID: drawDeployment.Draw(t, "id"), Selector: everyDevice}
	if rapid.Bool().Draw(t, "some") {
		d.Selector = drawSelector.Draw(t, "selector")
	}
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0:
		d.Paused = true
	case 1:
		d.Invalid = "the image is missing"
		return d
	case 2:
		d.Deleting = true
	}
	d.version(rapid.IntRange(0, 2).Draw(t, "version"))
	return d
})

func (d *Deployment) version(n int) {
	d.Score, d.Digest = testScore(n)
	d.Secrets = testSecrets(n)
}

// drawState is mostly of the version that is wanted.
func (w *world) drawState(t *rapid.T, id wire.DeploymentID) *wire.DeviceState {
	phase := rapid.SampledFrom([]wire.Phase{"", wire.PhasePending, wire.PhaseSucceeded, wire.PhaseFailed, wire.PhaseFailed}).Draw(t, "phase")
	if phase == "" {
		return nil
	}
	s := &wire.DeviceState{Phase: phase, Reason: "Reason", Message: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "message")}
	_, s.Digest = testScore(rapid.IntRange(0, 2).Draw(t, "version"))
	if d := w.deployments[id]; d != nil && d.Digest != "" && rapid.IntRange(0, 3).Draw(t, "other") > 0 {
		s.Digest = d.Digest
	}
	return s
}

// events are what may happen around a Fleet at any time.
func (w *world) events(random *rand.Rand) map[string]func(*rapid.T) {
	report := func(t *rapid.T) {
		k := drawPair.Draw(t, "pair")
		w.report(k, w.drawState(t, k.deployment))
	}
	return map[string]func(*rapid.T){
		"set device":     func(t *rapid.T) { w.setDevice(drawDevice.Draw(t, "id"), drawLabels.Draw(t, "labels")) },
		"set deployment": func(t *rapid.T) { w.setDeployment(drawSpec.Draw(t, "spec")) },
		"set version": func(t *rapid.T) {
			if d := w.deployments[drawDeployment.Draw(t, "id")]; d != nil && d.Invalid == "" {
				next := *d
				next.version(rapid.IntRange(0, 2).Draw(t, "version"))
				w.setDeployment(next)
			}
		},
		"report":            report,
		"report more":       report,
		"report still more": report,
		"hold": func(t *rapid.T) {
			w.setHold(drawDevice.Draw(t, "id"), rapid.SampledFrom([]string{"", "2027-02-03T04:05:06Z", "2027-02-03T05:05:06+01:00", "2028-01-01T00:00:00Z", "tomorrow"}).Draw(t, "until"))
		},
		"device says it is held": func(t *rapid.T) {
			h := rapid.SampledFrom([]*wire.Hold{
				nil, {Until: time.Unix(1_900_000_000, 0), By: wire.HeldByDevice}, {Until: time.Unix(1_900_000_000, 0), By: wire.HeldByCluster},
				{Until: time.Unix(1_900_000_060, 0), By: wire.HeldByDevice},
			}).Draw(t, "hold")
			w.sayHeld(drawDevice.Draw(t, "id"), h)
		},
		"remove device":     func(t *rapid.T) { w.removeDevice(drawDevice.Draw(t, "id")) },
		"remove deployment": func(t *rapid.T) { w.removeDeployment(drawDeployment.Draw(t, "id")) },
		"see everything again": func(t *rapid.T) {
			for id, r := range w.devices {
				w.f.SetDevice(id, r.labels, r.conditions)
			}
			for _, d := range w.deployments {
				w.f.SetDeployment(*d)
			}
		},
		"heartbeat": func(t *rapid.T) {
			id := drawDevice.Draw(t, "id")
			h := wire.Heartbeat{Session: rapid.SampledFrom([]string{"0000000a", "0000000b", "0000000c"}).Draw(t, "session")}
			if s := w.store[id]; s != nil && s.manifest != nil && rapid.Bool().Draw(t, "current") {
				h.Generation = s.manifest.Generation
			} else if rapid.IntRange(0, 9).Draw(t, "odd") == 0 {
				h.Generation = rapid.Uint64Range(0, 40).Draw(t, "generation")
			}
			w.heartbeat(id, h)
		},
		"time passes":      func(t *rapid.T) { w.now = w.now.Add(time.Duration(rapid.IntRange(1, 120).Draw(t, "s")) * time.Second) },
		"nothing is heard": func(t *rapid.T) { w.outage(time.Duration(rapid.IntRange(1, 600).Draw(t, "s")) * time.Second) },
		"states are replayed": func(t *rapid.T) {
			w.f.ResetStates()
			w.checkQuiet(t)
			for k, r := range w.states {
				w.f.ObserveState(k.device, k.deployment, &r.state, r.at)
			}
			w.f.Converge()
		},
		"days pass": func(t *rapid.T) {
			w.now = w.now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "days")) * 24 * time.Hour)
		},
		"signing key changes": func(t *rapid.T) {
			for _, s := range w.store {
				s.foreign = true
			}
			w.restart(random)
		},
		"store is read again": func(t *rapid.T) { w.reload(t, random) },
		"store is lost": func(t *rapid.T) {
			for _, s := range w.store {
				s.manifest = nil
				clear(s.keys)
			}
			w.reload(t, random)
		},
		"operator restarts": func(t *rapid.T) { w.restart(random) },
	}
}

func (w *world) reload(t tester, random *rand.Rand) {
	w.f.ResetStored()
	w.checkQuiet(t)
	for _, s := range w.store {
		s.failed = nil
	}
	shuffled(w.storeEvents(w.f), random)
	w.f.Converge()
}

// effects are partly carried out, or fail, or are stored although they failed.
func (w *world) effects() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"write": func(t *rapid.T) {
			for _, dw := range w.take(t, rapid.IntRange(1, 20).Draw(t, "messages")) {
				outcome := rapid.SampledFrom([]string{"stored", "lost", "unknown"}).Draw(t, "outcome")
				if outcome != "lost" {
					w.land(t, dw)
				}
				if w.shelf(dw.Device).failed = &dw; outcome == "stored" {
					w.shelf(dw.Device).failed = nil
				}
				w.f.Written(dw, outcome == "stored")
			}
		},
		"patch statuses": func(t *rapid.T) {
			for _, p := range w.f.TakeStatus(w.now, rapid.IntRange(1, 3).Draw(t, "limit")) {
				ok := rapid.Bool().Draw(t, "ok")
				if ok {
					w.patchStatus(t, p)
				}
				w.f.StatusWritten(p, ok)
			}
		},
		"patch devices": func(t *rapid.T) {
			for _, p := range w.f.TakeDevices(w.now, rapid.IntRange(1, 3).Draw(t, "limit")) {
				ok := rapid.Bool().Draw(t, "ok")
				if ok {
					w.patchDevice(p)
				}
				w.f.DeviceWritten(p, ok)
			}
		},
		"make grants": func(t *rapid.T) {
			for _, g := range w.f.TakeGrants(rapid.IntRange(1, 3).Draw(t, "limit")) {
				outcome := rapid.SampledFrom([]string{"made", "lost", "unknown"}).Draw(t, "outcome")
				if outcome != "lost" {
					w.granted[g.Device] = g.Secrets
				}
				w.f.Granted(g, outcome == "made")
			}
		},
		"secrets are audited": func(*rapid.T) { w.f.AuditGrants() },
		"confirm unowned": func(t *rapid.T) {
			for _, id := range w.f.Unowned() {
				if w.deployments[id] != nil {
					t.Fatalf("%s has a resource and is unowned", id)
				}
				w.confirmed[id] = true
				w.f.ConfirmGone(id)
			}
		},
		"confirm late": func(t *rapid.T) {
			id := drawDeployment.Draw(t, "id")
			if w.deployments[id] == nil {
				w.confirmed[id] = true
			}
			w.f.ConfirmGone(id)
		},
	}
}

// drawStore puts something into the broker's store that another operator left.
func (w *world) drawStore(t *rapid.T) {
	for range rapid.IntRange(0, 4).Draw(t, "stored") {
		k := drawPair.Draw(t, "pair")
		s := w.shelf(k.device)
		if s.manifest == nil {
			s.manifest = &wire.Manifest{Generation: rapid.Uint64Range(1, 9).Draw(t, "generation"), Deployments: map[string]wire.ManifestEntry{}}
			s.foreign = rapid.Bool().Draw(t, "foreign")
			if rapid.IntRange(0, 3).Draw(t, "held") == 0 {
				s.manifest.HoldUntil = time.Date(2027, 2, 3, 4, 5, 6, 0, time.UTC)
			}
			s.manifest.NotAfter = w.now.Add(time.Duration(rapid.IntRange(-10, 20).Draw(t, "days left")) * 24 * time.Hour)
		}
		_, digest := testScore(rapid.IntRange(0, 2).Draw(t, "version"))
		kind := rapid.SampledFrom([]string{"whole", "whole", "only entry", "only key"}).Draw(t, "kind")
		if kind != "only key" {
			s.manifest.Deployments[k.deployment.Token()] = wire.ManifestEntry{Revision: 77, Digest: digest}
		}
		if kind != "only entry" {
			s.keys[k.deployment] = digest
		}
	}
}

// TestAnyOrder is the property that everything else leans on: whatever happens,
// in whatever order, counters are equal to a recount after every event; when the
// effects have been carried out the store and the statuses are what brute force
// says; and an operator that is started then, and reads everything in another
// order, has nothing to do.
func TestAnyOrder(t *testing.T) {
	// One check is cheap, and the rarer traps take many.
	for range 10 {
		rapid.Check(t, anyOrder)
	}
}

func anyOrder(t *rapid.T) {
	random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0))
	w := newWorld()
	w.drawStore(t)
	actions := w.events(random)
	early := rapid.IntRange(0, 10).Draw(t, "before Converge")
	for range early {
		actions[rapid.SampledFrom([]string{"set device", "set deployment", "report", "heartbeat"}).Draw(t, "event")](t)
		w.checkQuiet(t)
	}
	shuffled(w.storeEvents(w.f), random)
	w.f.Converge()
	for name, effect := range w.effects() {
		actions[name] = effect
	}
	actions[""] = func(t *rapid.T) { w.checkCounters(t) }
	t.Repeat(actions)

	w.settle(t, rapid.Bool().Draw(t, "confirm"))
	w.checkCounters(t)
	w.checkSettled(t)
	w.checkQuiet(t)
	w.restart(random)
	w.checkCounters(t)
	w.checkQuiet(t)
}

// TestIndex holds the index against Kubernetes' own selectors, both ways: the
// devices of a selector, and the selectors of a device.
func TestIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		for id, has := range rapid.MapOfN(drawDevice, drawLabels, 0, 6).Draw(t, "devices") {
			w.setDevice(id, has)
		}
		selector := drawSelector.Draw(t, "selector")
		got, err := w.f.Matches(selector)
		reference, wantErr := metav1.LabelSelectorAsSelector(&selector)
		if (err != nil) != (wantErr != nil) {
			t.Fatalf("%+v: error %v, want %v", selector, err, wantErr)
		}
		if err != nil || len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
			reference = labels.Nothing()
		}
		found := map[wire.DeviceID]bool{}
		for _, id := range got {
			found[id] = true
		}
		for id, r := range w.devices {
			has := labels.Set{v1alpha1.LabelDeviceID: string(id)}
			for k, v := range r.labels {
				has[k] = v
			}
			if want := reference.Matches(has); found[id] != want {
				t.Fatalf("%+v on %v: %v, want %v", selector, has, found[id], want)
			}
		}
		if len(w.f.index.always) > 0 {
			t.Fatalf("a selector that asked once was filed")
		}
	})
}
