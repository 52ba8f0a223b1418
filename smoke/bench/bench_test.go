package bench

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVerdict(t *testing.T) {
	tests := map[string]struct {
		reason string
		row    row
		want   string
	}{
		"enough":    {"the median counts", row{values: series{0.1, 0.5, 0.9}, atLeast: 0.5}, "pass"},
		"too slow":  {"one good round does not save it", row{values: series{0.1, 0.4, 0.9}, atLeast: 0.5}, "MISS"},
		"too big":   {"a bound from above", row{values: series{1025, 1025, 1}, atMost: 1024}, "MISS"},
		"no target": {"it only informs", row{values: series{1}}, ""},
		"nothing":   {"there shall be none", row{values: series{0}, none: true}, "pass"},
		"something": {"one is one too many", row{values: series{1}, none: true}, "MISS"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if _, got := tc.row.verdict(); got != tc.want {
				t.Errorf("%s: got %q, want %q", tc.reason, got, tc.want)
			}
		})
	}
}

func TestSlope(t *testing.T) {
	tests := map[string]struct {
		reason string
		y      series
		want   float64
	}{
		"constant": {"a cost that does not grow", series{7, 7, 7}, 0},
		"linear":   {"a cost in proportion", series{1, 10, 100}, 1},
		"root":     {"a cost that grows slower", series{1, math.Sqrt(10), 10}, 0.5},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := slope([]int{1, 10, 100}, tc.y); math.Abs(got-tc.want) > 1e-9 {
				t.Errorf("%s: got %g, want %g", tc.reason, got, tc.want)
			}
		})
	}
}

// TestEachDeviceRunsThree: the workload is what the rows of the table say.
func TestEachDeviceRunsThree(t *testing.T) {
	_, writes := newFleet(roleSize)
	for _, w := range writes {
		if len(w.Put) < perDevice-1 || len(w.Put) > perDevice { // the last role lacks values that would need more Deployments
			t.Errorf("device %s runs %d Deployments", w.Device, len(w.Put))
		}
	}
	if diff := cmp.Diff(roleSize, len(writes)); diff != "" {
		t.Errorf("devices with something to run (-want +got):\n%s", diff)
	}
	if labels := deviceLabels(7); len(labels) != 5 {
		t.Errorf("labels are %v, want five", labels)
	}
}
