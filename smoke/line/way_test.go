package line

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestWay has packets of any size come at any time, while the fault changes.
func TestWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		w := way{chance: random.Float64}
		now := time.Unix(1000, 0)
		var last time.Time
		sizes := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(20, largest), rapid.SampledFrom([]int{1280, 1281})), 1, 60)
		for range rapid.IntRange(1, 4).Draw(t, "faults") {
			w.fault = Fault{
				Loss:  rapid.SampledFrom([]float64{0, 0.3, 1}).Draw(t, "loss"),
				Rate:  rapid.SampledFrom([]int{0, 9_600, 32_000, 1_000_000}).Draw(t, "rate"),
				Delay: rapid.SampledFrom([]time.Duration{0, time.Millisecond, 2 * time.Second}).Draw(t, "delay"),
				MTU:   rapid.SampledFrom([]int{0, 576, 1280}).Draw(t, "mtu"),
			}
			begin, carried := later(now, w.busy), 0
			for _, size := range sizes.Draw(t, "sizes") {
				now = now.Add(time.Duration(random.Int64N(int64(20 * time.Millisecond))))
				arrives, taken := w.take(size, now)
				if !taken {
					continue
				}
				carried += size
				switch {
				case w.fault.Loss == 1:
					t.Fatal("a packet arrives though all are lost")
				case w.fault.MTU > 0 && size > w.fault.MTU:
					t.Fatalf("%d bytes arrive, and %d are what a packet may have", size, w.fault.MTU)
				case arrives.Before(last):
					t.Fatalf("a packet arrives %s before an earlier one", last.Sub(arrives))
				case arrives.Before(now.Add(w.fault.Delay)):
					t.Fatalf("a packet arrives after %s", arrives.Sub(now))
				case w.fault.Rate > 0 && arrives.Sub(begin.Add(w.fault.Delay)).Seconds()*float64(w.fault.Rate) < 8*float64(carried)-1:
					t.Fatalf("%d bytes took %s", carried, arrives.Sub(begin))
				}
				last = arrives
			}
		}
	})
}

// TestWayShares: as many packets are lost as is said, and a line without a fault loses and
// delays none.
func TestWayShares(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, loss := range []float64{0, 0.1, 0.3, 1} {
		w := way{fault: Fault{Loss: loss}, chance: rand.New(rand.NewPCG(1, 2)).Float64}
		const all = 10_000
		lost := 0
		for range all {
			arrives, taken := w.take(largest, now)
			if !taken {
				lost++
			} else if !arrives.Equal(now) {
				t.Fatalf("a packet arrives after %s", arrives.Sub(now))
			}
		}
		if got := float64(lost) / all; math.Abs(got-loss) > 0.02 {
			t.Errorf("of all packets %.2f were lost, want %.2f", got, loss)
		}
	}
}

// TestWayQueue: what comes faster than a narrow line takes it waits, until there is no more
// room; and there is again later.
func TestWayQueue(t *testing.T) {
	w := way{fault: Fault{Rate: 32_000}, chance: rand.Float64}
	burst := func(now time.Time) (taken int, last time.Time) {
		for range 100 {
			if arrives, ok := w.take(1000, now); ok {
				taken, last = taken+1, arrives
			}
		}
		return taken, last
	}
	now := time.Unix(1000, 0)
	for range 2 {
		taken, last := burst(now)
		if taken != 20 || last.Sub(now) != 5*time.Second {
			t.Errorf("%d packets are taken, the last of which arrives after %s; want 20 in 5 s", taken, last.Sub(now))
		}
		now = last
	}
}
