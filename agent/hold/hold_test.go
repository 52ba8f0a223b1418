package hold_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

var now = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func TestNew(t *testing.T) {
	h, err := hold.New(now, 2*time.Hour, wire.HeldByDevice)
	if err != nil || h.String() != "held until 2026-03-04T14:00:00Z by the device" {
		t.Errorf("got %s, %v", h, err)
	}
	for _, length := range []time.Duration{0, -time.Hour, hold.Longest + 1} {
		if _, err := hold.New(now, length, wire.HeldByDevice); err == nil || !strings.Contains(err.Error(), "at most 720h") {
			t.Errorf("%s: error %v", length, err)
		}
	}
}

// The clock of a device without a battery starts anywhere, and is set later.
func TestLeft(t *testing.T) {
	h, err := hold.New(now, 2*time.Hour, wire.HeldByDevice)
	if err != nil {
		t.Fatal(err)
	}
	endless := hold.Hold{Until: now.Add(100 * hold.Longest)}
	type look struct {
		at   time.Time
		left time.Duration
	}
	epoch := time.Unix(60, 0)
	for reason, c := range map[string]struct {
		hold  hold.Hold
		looks []look
	}{
		"the clock is right":                     {h, []look{{now, 2 * time.Hour}, {now.Add(time.Hour), time.Hour}, {now.Add(2 * time.Hour), 0}}},
		"a new agent goes on with it":            {h, []look{{now.Add(90 * time.Minute), 30 * time.Minute}}},
		"it is over when it is first seen":       {h, []look{{now.Add(3 * time.Hour), 0}}},
		"a clock in the past ends it in time":    {h, []look{{epoch, 2 * time.Hour}, {epoch.Add(time.Hour), time.Hour}, {epoch.Add(3 * time.Hour), 0}}},
		"a clock in the past that is set":        {h, []look{{epoch, 2 * time.Hour}, {now.Add(time.Hour), 0}}},
		"a clock in the future ends it early":    {h, []look{{now.AddDate(10, 0, 0), 0}}},
		"one that is too long is cut":            {endless, []look{{now, hold.Longest}}},
		"one that ends before it begins is over": {hold.Hold{Set: now, Until: now.Add(-time.Hour)}, []look{{epoch, 0}}},
	} {
		var w hold.Watch
		for _, l := range c.looks {
			if got := w.Left(c.hold, l.at); got != l.left {
				t.Errorf("%s: at %s left %s, want %s", reason, l.at, got, l.left)
			}
		}
	}
}

func TestForget(t *testing.T) {
	var w hold.Watch
	h := hold.Hold{Set: now, Until: now.Add(time.Hour)}
	epoch := time.Unix(60, 0)
	w.Left(h, epoch)
	w.Forget(h)
	if got := w.Left(h, epoch.Add(time.Hour)); got != 0 {
		t.Errorf("kept: %s left", got)
	}
	w.Forget()
	if got := w.Left(h, epoch.Add(time.Hour)); got != time.Hour {
		t.Errorf("forgotten: %s left", got)
	}
}
