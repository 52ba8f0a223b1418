package reconcile_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// turnOf is when a device fetches an image that is not here, and how the wait looks.
func turnOf(t *testing.T, device wire.DeviceID, window time.Duration) (wait time.Duration, state *wire.DeviceState) {
	t.Helper()
	m := newModel()
	m.pulls = reconcile.Pulls{Device: device, Window: window}
	m.want(app())
	begin := m.now
	if begun := m.next(nil); !cmp.Equal(begun, []string{"app Pull"}) {
		t.Fatalf("begun %q", begun)
	}
	if begun := m.next(nil); len(begun) > 0 {
		t.Fatalf("begun %q before its turn", begun)
	}
	p := m.plan()
	m.now = p.Wake
	if begun := m.next(nil); !cmp.Equal(begun, []string{"app Pull"}) {
		t.Fatalf("begun %q in its turn", begun)
	}
	if begun := m.next(nil); !cmp.Equal(begun, []string{"app Create"}) {
		t.Fatalf("begun %q after its turn", begun)
	}
	return p.Wake.Sub(begin), p.State
}

// The devices of a fleet fill the window evenly, each at the same place whenever it
// asks.
func TestPullsAreSpread(t *testing.T) {
	const devices, window = 1000, 10 * time.Minute
	minutes := map[int]int{}
	for i := range devices {
		device := wire.DeviceID(fmt.Sprint("device-", i))
		wait, state := turnOf(t, device, window)
		if again, _ := turnOf(t, device, window); again != wait || wait >= window {
			t.Fatalf("%s waits %s, and then %s", device, wait, again)
		}
		if state.Reason != reconcile.ReasonPulling || !strings.Contains(state.Message, "pull_jitter") {
			t.Fatalf("state %+v", state)
		}
		minutes[int(wait/time.Minute)]++
	}
	for minute := range 10 {
		if n := minutes[minute]; n < devices/20 || n > devices/5 {
			t.Errorf("%d of %d devices pull in minute %d of 10", n, devices, minute)
		}
	}
}

func TestImageThatIsHereWaitsForNoTurn(t *testing.T) {
	m := newModel()
	m.pulls = reconcile.Pulls{Device: "pi-1", Window: time.Hour}
	m.here["registry.example/app:1"] = true
	m.want(app())
	if diff := cmp.Diff([]string{"app Pull", "app Create", "app Start"}, m.steps()); diff != "" {
		t.Errorf("(- want, + got):\n%s", diff)
	}
}

func TestRoom(t *testing.T) {
	const mib = int64(1) << 20
	for reason, c := range map[string]struct {
		free, total, min int64
		want             string
	}{
		"there is room":                    {2048 * mib, 32000 * mib, 1024 * mib, ""},
		"just enough":                      {1024 * mib, 32000 * mib, 1024 * mib, ""},
		"too little":                       {1000 * mib, 32000 * mib, 1024 * mib, "/var/lib/containers has 1000 MiB free of 32000 MiB: at least 1024 MiB shall be"},
		"a tenth of a small one does":      {30 * mib, 256 * mib, 1024 * mib, ""},
		"less than a tenth of a small one": {20 * mib, 256 * mib, 1024 * mib, "at least 25 MiB shall be"},
		"nothing is asked for":             {0, 256 * mib, 0, ""},
	} {
		low := reconcile.Room{Path: "/var/lib/containers", Free: c.free, Total: c.total}.Low(c.min)
		switch {
		case (low != nil) != (c.want != ""):
			t.Errorf("%s: got %v", reason, low)
		case low != nil && (low.Reason != reconcile.ReasonDiskSpaceLow || !strings.Contains(low.Message, c.want)):
			t.Errorf("%s: got %+v", reason, low)
		}
	}
}
