package roster

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// BenchmarkTenThousand tells what a fleet of 10,000 devices costs a replica: how
// long it takes until it can decide, what it keeps of each device, and how long a
// revocation takes to be heard.
func BenchmarkTenThousand(b *testing.B) {
	const devices = 10_000
	w := newWorld(b)
	id := func(i int) wire.DeviceID { return wire.DeviceID(fmt.Sprintf("pi-%05d", i)) }
	var writing sync.WaitGroup
	next := make(chan int)
	for range 16 {
		writing.Go(func() {
			for i := range next {
				w.invite(id(i))
			}
		})
	}
	for i := range devices {
		next <- i
	}
	close(next)
	writing.Wait()
	first := w.ready()
	for i := range devices {
		w.must(w.join(first, id(i), key))
	}
	o, err := first.client.get(b.Context(), id(0))
	w.must(err)
	stored, err := json.Marshal(o)
	w.must(err)

	for b.Loop() {
		before := heap()
		begin := time.Now()
		r := w.ready()
		ready := time.Since(begin)
		kept := heap() - before
		begin = time.Now()
		w.must(w.person.PutRevocation(b.Context(), id(1), policy.Revocation{}, w.records(id(1)).RevocationVersion))
		for {
			if _, err := r.Policy(b.Context(), id(1)); errors.Is(err, policy.ErrRevoked) {
				break
			}
			time.Sleep(time.Millisecond)
		}
		heard := time.Since(begin)
		w.must(w.person.DropRevocation(b.Context(), id(1)))
		b.ReportMetric(float64(ready.Milliseconds()), "ms-until-ready")
		b.ReportMetric(float64(kept)/devices, "bytes-kept/device")
		b.ReportMetric(float64(len(stored)), "bytes-stored/device")
		b.ReportMetric(float64(heard.Milliseconds()), "ms-until-revoked")
	}
}

// heap is what is in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
