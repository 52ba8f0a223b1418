package engine

import (
	"fmt"
	"testing"

	"github.com/go-logr/logr"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
)

// TestExcess: a device's states are to be purged when maxExcess of its keys are of
// no use at one time, and never for what became of use or is gone.
func TestExcess(t *testing.T) {
	type step struct {
		keys   int // of no use, from the first one on
		useful int // of those, the first ones
		again  int // how often all of that happens
	}
	for name, c := range map[string]struct {
		step
		due bool
	}{
		"as many as may be":     {step{keys: maxExcess - 1, again: 1}, false},
		"one more":              {step{keys: maxExcess, again: 1}, true},
		"the same ones anew":    {step{keys: maxExcess - 1, again: 3}, false},
		"one is of use at last": {step{keys: maxExcess - 1, useful: 1, again: 3}, false},
		"all are gone at last":  {step{keys: maxExcess - 1, useful: maxExcess - 1, again: 3}, false},
	} {
		t.Run(name, func(t *testing.T) {
			x, sequence := newExcess(), uint64(0)
			note := func(i int, useful bool) {
				sequence++
				x.note("pi-1", bus.Entry{Key: fmt.Sprintf("pi-1.default.app-%d", i), Sequence: sequence}, useful)
			}
			for range c.again {
				for i := range c.keys {
					note(i, false)
				}
				for i := range c.useful {
					note(i, true)
				}
			}
			x.note("pi-2", bus.Entry{Key: "pi-2.default.app", Sequence: sequence + 1}, false)
			kept := len(x.keys["pi-1"])
			due, through := x.take()
			if due["pi-1"] != c.due || due["pi-2"] || through != sequence+1 {
				t.Errorf("due %v through %d, want pi-1 to be due: %t, through %d", due, through, c.due, sequence+1)
			}
			if want := c.keys - c.useful; !c.due && kept != want || c.due && kept != 0 {
				t.Errorf("%d keys are remembered, want %d or, once due, none", kept, want)
			}
			if again, _ := x.take(); len(again) > 0 {
				t.Errorf("due once more: %v", again)
			}
		})
	}
}

// TestExcessIsForgotten: a bucket that is read anew counts anew.
func TestExcessIsForgotten(t *testing.T) {
	x := newExcess()
	for round := range 2 {
		for i := range maxExcess - 1 {
			x.note("pi-1", bus.Entry{Key: fmt.Sprintf("pi-1.%d.%d", round, i), Sequence: uint64(i)}, false)
		}
		x.reset()
	}
	if due, through := x.take(); len(due) > 0 || through != 0 || len(x.keys) > 0 {
		t.Errorf("after a reset: due %v through %d, %d devices remembered", due, through, len(x.keys))
	}
}

// TestUnreadableKeysOfNobody: a key that no device may write is nobody's excess.
func TestUnreadableKeysOfNobody(t *testing.T) {
	e := newEngine(logr.Discard())
	for i := range 2 * maxExcess {
		for _, device := range []string{"", "PI", "*", ">", "pi_1"} {
			e.unreadable(bus.Entry{Key: fmt.Sprintf("%s.default.app-%d", device, i)}, wire.ErrMalformed)
		}
	}
	if due, _ := e.takeExcess(); len(due) > 0 || len(e.excess.keys) > 0 {
		t.Errorf("due %v, remembered %v", due, e.excess.keys)
	}
}
