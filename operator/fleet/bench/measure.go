package main

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/fleet"
)

// measurement is one row of the table.
type measurement struct {
	name, unit, target string
	// prepare returns what measures once.
	prepare func() (round func() float64)
}

func measurements() []measurement {
	var all []measurement
	for _, devices := range []int{1_000, 10_000, 100_000} {
		all = append(all, measurement{fmt.Sprintf("label change, %d devices, 1000 deployments", devices), "ns", "",
			func() func() float64 { return labelChange(devices) }})
	}
	return append(all,
		measurement{"label change, slope of log(time) over log(devices), 1000 to 100000", "", "<= 0.2", labelSlope},
		measurement{"selectors of a relabelled device, brute force / index, 10000 selectors, 10000 devices", "x", ">= 100", selectorsOfDevice},
		measurement{"selectors evaluated for a relabelled device, 10000 selectors, 3 matches", "", "", evaluations},
		measurement{"devices of a selector, brute force / index, 10000 selectors, 100000 devices", "x", ">= 100", devicesOfSelector},
		measurement{"state observed, nothing new, 100000 devices", "ns", "< 1000", func() func() float64 { return observe(false) }},
		measurement{"state observed, phase moves, 100000 devices", "ns", "< 1000", func() func() float64 { return observe(true) }},
		measurement{"heap per device, 100000 devices, 5 labels, 3 deployments", "B", "<= 1024", heapPerDevice},
	)
}

// perCall is the processor time of one of n calls, in nanoseconds: unlike the
// time on the wall it does not grow with what else the host does, and it counts
// what the garbage collector does on other processors.
func perCall(n int, call func(i int)) float64 {
	runtime.GC()
	begin := processorTime()
	for i := range n {
		call(i)
	}
	return float64((processorTime() - begin).Nanoseconds()) / float64(n)
}

func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err) // it has no way to fail for the process itself
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// relabel moves a device to another environment: the one label that every
// selector of the workload asks for.
func (w workload) relabel(f *fleet.Fleet, i int) {
	d := w.devices[i*7919%len(w.devices)]
	d.labels["env"] = environments[(slices.Index(environments, d.labels["env"])+1)%4]
	f.SetDevice(d.id, d.labels, nil)
}

// labelChange relabels devices, one after another, and carries out the writes
// that follow.
func labelChange(devices int) func() float64 {
	w := newWorkload(devices, 1_000)
	f := w.fleet()
	return func() float64 {
		return perCall(20_000, func(i int) {
			w.relabel(f, i)
			for _, write := range f.TakeWrites(1) {
				f.Written(write, true)
			}
		})
	}
}

func labelSlope() func() float64 {
	small, large := labelChange(1_000), labelChange(100_000)
	return func() float64 { return math.Log10(large()/small()) / 2 }
}

// bruteForce is Kubernetes' own selector for each Deployment, and the labels of
// each device.
func bruteForce(w workload) ([]labels.Selector, []labels.Set) {
	var selectors []labels.Selector
	for _, d := range w.deployments {
		s, err := metav1.LabelSelectorAsSelector(&d.Selector)
		if err != nil {
			panic(err) // the workload is made here
		}
		selectors = append(selectors, s)
	}
	var sets []labels.Set
	for _, d := range w.devices {
		set := labels.Set{v1alpha1.LabelDeviceID: string(d.id)}
		for key, value := range d.labels {
			set[key] = value
		}
		sets = append(sets, set)
	}
	return selectors, sets
}

// selectorsOfDevice compares what it takes to know which selectors a device
// matches after one of its labels changed. The index does more in its time: it
// moves the counters of those that it matches no more, or now.
func selectorsOfDevice() func() float64 {
	w := newWorkload(10_000, 10_000)
	f := w.fleet()
	selectors, sets := bruteForce(w)
	return func() float64 {
		brute := perCall(50, func(i int) { count(selectors, sets[i]) })
		return brute / perCall(20_000, func(i int) { w.relabel(f, i) })
	}
}

func count(selectors []labels.Selector, set labels.Set) (matches int) {
	for _, s := range selectors {
		if s.Matches(set) {
			matches++
		}
	}
	return matches
}

// evaluations is how many selectors are held against a device, one by one, when
// one of its labels changes.
func evaluations() func() float64 {
	w := newWorkload(10_000, 10_000)
	f := w.fleet()
	return func() float64 {
		before := f.Stats().Evaluations
		for i := range 20_000 {
			w.relabel(f, i)
		}
		return float64(f.Stats().Evaluations-before) / 20_000
	}
}

// devicesOfSelector compares what it takes to find the devices that a selector
// matches, and holds the answers against each other.
func devicesOfSelector() func() float64 {
	w := newWorkload(100_000, 10_000)
	f := w.fleet()
	selectors, sets := bruteForce(w)
	return func() float64 {
		found := make([]int, 20)
		brute := perCall(len(found), func(i int) {
			for _, set := range sets {
				if selectors[i].Matches(set) {
					found[i]++
				}
			}
		})
		indexed := perCall(len(w.deployments), func(i int) {
			ids, err := f.Matches(w.deployments[i].Selector)
			if err != nil {
				panic(err) // the workload is made here
			}
			if i < len(found) {
				mustEqual(len(ids), found[i])
			}
		})
		return brute / indexed
	}
}

// mustEqual stops a measurement of something that is wrong.
func mustEqual[T comparable](got, want T) {
	if got != want {
		panic(fmt.Sprintf("measured something wrong: got %v, want %v", got, want))
	}
}

// observe feeds states of assigned Deployments, with or without news in them.
func observe(news bool) func() float64 {
	w := newWorkload(100_000, 1_000)
	f := w.fleet()
	type pair struct {
		device     wire.DeviceID
		deployment *fleet.Deployment
	}
	var pairs []pair
	for i := range w.deployments {
		ids, err := f.Matches(w.deployments[i].Selector)
		if err != nil {
			panic(err)
		}
		for _, id := range ids {
			pairs = append(pairs, pair{id, &w.deployments[i]})
		}
	}
	phases := []wire.Phase{wire.PhaseSucceeded, wire.PhaseSucceeded}
	if news {
		phases = []wire.Phase{wire.PhasePending, wire.PhaseSucceeded}
	}
	state := wire.DeviceState{Reason: "Succeeded"}
	round := 0
	return func() float64 {
		round++
		return perCall(len(pairs), func(i int) {
			// A large stride, so that the caches of the host do not flatter.
			p := pairs[i*7919%len(pairs)]
			state.Phase, state.Digest = phases[round%2], p.deployment.Digest
			f.ObserveState(p.device, p.deployment.ID, &state, start)
		})
	}
}

func heapPerDevice() func() float64 {
	const devices = 100_000
	return func() float64 {
		w := newWorkload(devices, 1_000)
		before := liveHeap()
		f := w.fleet()
		after := liveHeap()
		mustEqual(f.Stats().Devices, devices)
		runtime.KeepAlive(w)
		return float64(after-before) / devices
	}
}

func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
