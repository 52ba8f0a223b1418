package load

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// TestPlanExercisesSelectors: every way to select is there, and one of them
// leaves devices of its group out.
func TestPlanExercisesSelectors(t *testing.T) {
	p, err := newPlan(100, 10)
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[int]bool{}
	for _, d := range p.deployments {
		sizes[len(d.pairs)] = true
	}
	if !sizes[10] || len(sizes) < 2 {
		t.Errorf("numbers of matched devices are %v, want the whole group of 10 and less", sizes)
	}
	if len(p.probes) == 0 {
		t.Error("there is no probe")
	}
	for _, d := range p.devices {
		if _, err := wire.ParseDeviceID(string(d.id)); err != nil {
			t.Error(err)
		}
		if _, err := d.info().Encode(); err != nil {
			t.Error(err)
		}
	}
}

func TestRecount(t *testing.T) {
	p := &plan{
		devices:     []device{{id: "a", silent: true}, {id: "b"}, {id: "c"}, {id: "d"}},
		deployments: []deployment{{pairs: []int{0, 1, 2, 3}}},
		pairs:       []pair{{0, 0}, {1, 0}, {2, 0}, {3, 0}},
	}
	succeeded := truth{phase: wire.PhaseSucceeded, current: true, serial: 1}
	failed := func(serial uint64) truth {
		return truth{phase: wire.PhaseFailed, current: true, serial: serial}
	}
	lastError := func(device string, serial uint64) *v1alpha1.LastError {
		return &v1alpha1.LastError{Device: device, Reason: failureReason, Message: failed(serial).failure()}
	}
	tests := map[string]struct {
		reason string
		truths []truth
		want   v1alpha1.Aggregate
	}{
		"nothing yet": {"who has not reported is pending", make([]truth, 4),
			v1alpha1.Aggregate{MatchedDeviceCount: 4, Pending: 4, Unreachable: 1}},
		"old versions": {"whatever an old version does, it is not this one",
			[]truth{{phase: wire.PhaseSucceeded, serial: 1}, {phase: wire.PhaseFailed, serial: 2}, succeeded, succeeded},
			v1alpha1.Aggregate{MatchedDeviceCount: 4, Pending: 2, Succeeded: 2, Unreachable: 1}},
		"two failures": {"the newest one is told", []truth{failed(7), succeeded, failed(9), failed(8)},
			v1alpha1.Aggregate{MatchedDeviceCount: 4, Succeeded: 1, Failed: 3, Unreachable: 1, LastError: lastError("c", 9)}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, p.recount(0, tc.truths)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestStatesAreValid(t *testing.T) {
	p, err := newPlan(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	phases := map[wire.Phase]bool{}
	for range 1000 {
		drawn := draw(random)
		payload, err := drawn.state(p.deployments[0]).Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := wire.DecodeDeviceState(payload); err != nil {
			t.Fatal(err)
		}
		phases[drawn.phase] = true
	}
	if len(phases) != 3 {
		t.Errorf("drew %v, want all three phases", phases)
	}
}

func TestMostWithin(t *testing.T) {
	at := func(seconds ...float64) []time.Time {
		var times []time.Time
		for _, s := range seconds {
			times = append(times, time.Unix(0, 0).Add(time.Duration(s*float64(time.Second))))
		}
		return times
	}
	tests := map[string]struct {
		reason string
		times  []time.Time
		want   int
	}{
		"none":        {"nothing happened", nil, 0},
		"every 1 s":   {"a window includes one of its ends", at(0, 1, 2, 3, 4, 5), 3},
		"burst":       {"the densest window counts", at(0, 10, 10.1, 10.2, 10.3, 20), 4},
		"just beyond": {"a window of 3 s does not hold what is 3 s apart", at(0, 3, 6), 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := mostWithin(tc.times, 3*time.Second); got != tc.want {
				t.Errorf("%s: got %d, want %d", tc.reason, got, tc.want)
			}
		})
	}
}

// TestProblems: each thing that the run must not show fails it.
func TestProblems(t *testing.T) {
	tests := map[string]struct {
		reason string
		report report
		want   int
	}{
		"good":              {"nothing is wrong", report{changes: counts{most: maxChanges}}, 0},
		"an error":          {"one lost write may make an aggregate wrong", report{errors: 1}, 1},
		"heartbeat write":   {"heartbeats must cost the API server nothing", report{heartbeatWrites: 1}, 1},
		"too many patches":  {"a status moves once a second", report{changes: counts{most: maxChanges + 1}}, 1},
		"wrong aggregate":   {"that is what the run is for", report{aggregates: findings{wrong: 1}}, 1},
		"wrong device, key": {"they are part of the truth", report{devices: findings{wrong: 1}, desired: findings{wrong: 1}}, 2},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tc.report.problems(); len(got) != tc.want {
				t.Errorf("%s: got %v, want %d", tc.reason, got, tc.want)
			}
		})
	}
}
