package bus

import (
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// TestHold: the manifest says until when the device is held, and each new one says so
// anew; the hold goes on from when it was first seen.
func TestHold(t *testing.T) {
	f := newFleet(t, "pi-4")
	seed := newSeed(t)
	signer, err := wire.NewSigner(seed)
	if err != nil {
		t.Fatal(err)
	}
	options := f.options("pi-4")
	options.TrustedKeys = signer.Keys()
	a := f.run(options, func(tm *timing) { tm.audit = 10 * time.Millisecond })
	write := func(generation uint64, until time.Time) hold.Hold {
		t.Helper()
		signed, err := signer.Sign("pi-4", wire.Manifest{Generation: generation, NotAfter: time.Now().Add(time.Hour), HoldUntil: until})
		if err != nil {
			t.Fatal(err)
		}
		f.put("pi-4", string(signed))
		f.eventually("it is applied", func() bool { return a.workloads.Desired().Generation == generation })
		return a.workloads.Desired().Hold
	}
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	if h := write(1, time.Time{}); h != (hold.Hold{}) {
		t.Errorf("held without a cause: %s", h)
	}
	first := write(2, until)
	if !first.Until.Equal(until) || first.By != wire.HeldByCluster || time.Since(first.Set) > time.Hour {
		t.Errorf("got %+v, want %s", first, until)
	}
	if again := write(3, until); again != first {
		t.Errorf("the hold begins anew: %+v, was %+v", again, first)
	}
	if longer := write(4, until.Add(time.Hour)); longer.Set.Equal(first.Set) || !longer.Until.Equal(until.Add(time.Hour)) {
		t.Errorf("another hold: %+v, was %+v", longer, first)
	}
	if h := write(5, time.Time{}); h != (hold.Hold{}) {
		t.Errorf("held on: %s", h)
	}
}
