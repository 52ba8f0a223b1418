package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/fleet"
)

const (
	deployments = 1000
	// perDevice is how many Deployments match each device: one for each of its
	// roles.
	perDevice = 3
	roleSize  = (deployments + perDevice - 1) / perDevice
)

var sizes = []int{1_000, 10_000, 100_000}

func deviceID(i int) wire.DeviceID { return wire.DeviceID(fmt.Sprintf("dev-%06d", i)) }

// deviceLabels are five; three of them are each chosen by one Deployment.
func deviceLabels(i int) map[string]string {
	l := map[string]string{"site": "s" + strconv.Itoa(i/100), "arch": [...]string{"amd64", "arm64"}[i%2]}
	for role := range perDevice {
		l["role"+strconv.Itoa(role)] = "r" + strconv.Itoa((i+role)%roleSize)
	}
	return l
}

// deployment j selects one value of one role.
func deployment(j int) *v1alpha1.Deployment {
	return &v1alpha1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "bench", Name: fmt.Sprintf("app-%04d", j), Generation: 1},
		Spec: v1alpha1.DeploymentSpec{
			TargetSelector: metav1.LabelSelector{MatchLabels: map[string]string{
				"role" + strconv.Itoa(j%perDevice): "r" + strconv.Itoa(j/perDevice)}},
			Score: score.Score{PodmanV0: &score.PodmanV0{Services: []score.Service{{
				Name: "web", Image: "registry.example.com/app:" + strconv.Itoa(j)}}}},
		},
	}
}

// newFleet is a fleet that has converged, and what each device was told to run.
func newFleet(devices int) (*fleet.Fleet, []fleet.DeviceWrite) {
	f := fleet.New(fleet.Options{})
	for j := range deployments {
		f.SetDeployment(fleet.DeploymentFrom(deployment(j)))
	}
	for i := range devices {
		f.SetDevice(deviceID(i), deviceLabels(i), nil)
	}
	f.Converge()
	return f, drain(f)
}

// drain carries out all writes of desired state, into nothing, as of one moment:
// no manifest falls due to be renewed meanwhile.
func drain(f *fleet.Fleet) []fleet.DeviceWrite {
	var all []fleet.DeviceWrite
	now := time.Now()
	for {
		writes := f.TakeWrites(now, 10_000)
		if len(writes) == 0 {
			return all
		}
		for _, w := range writes {
			f.Written(w, true)
		}
		all = append(all, writes...)
	}
}

// labelChanges measures one device's change from one Deployment to another,
// what to write included, for fleets of different sizes in turn.
func (b *bench) labelChanges(context.Context) error {
	const changes = 2000
	random := rand.New(rand.NewPCG(1, 1))
	fleets := make([]*fleet.Fleet, len(sizes))
	for i, n := range sizes {
		fleets[i], _ = newFleet(n)
	}
	costs := make([]series, len(sizes))
	var slopes series
	for range rounds {
		var round series
		for i, n := range sizes {
			runtime.GC()
			var total time.Duration
			for range changes {
				device := random.IntN(n)
				id, changed := deviceID(device), deviceLabels(device)
				changed["role0"] = "r" + strconv.Itoa(random.IntN(roleSize))
				begin := time.Now()
				fleets[i].SetDevice(id, changed, nil)
				drain(fleets[i])
				total += time.Since(begin)
			}
			round = append(round, float64(total.Nanoseconds())/changes)
			costs[i] = append(costs[i], round[i])
		}
		slopes = append(slopes, slope(sizes, round))
	}
	for i, n := range sizes {
		b.add(row{what: fmt.Sprintf("label change, %d devices", n), unit: "ns", values: costs[i]})
	}
	b.add(row{what: "label change, slope of log(time) over log(devices)", values: slopes, atMost: 0.2})
	return nil
}

// slope is the least-squares slope of log(y) over log(x).
func slope(x []int, y series) float64 {
	var mx, my float64
	for i := range x {
		mx += math.Log(float64(x[i])) / float64(len(x))
		my += math.Log(y[i]) / float64(len(x))
	}
	var up, down float64
	for i := range x {
		dx := math.Log(float64(x[i])) - mx
		up += dx * (math.Log(y[i]) - my)
		down += dx * dx
	}
	return up / down
}

// selectors are of the kinds that people write: by one label, by several, with
// values to choose from, with exceptions.
func selectors(n int) []metav1.LabelSelector {
	random := rand.New(rand.NewPCG(2, 2))
	all := make([]metav1.LabelSelector, n)
	for i := range all {
		role, value := "role"+strconv.Itoa(random.IntN(perDevice)), "r"+strconv.Itoa(random.IntN(roleSize))
		s := &all[i]
		s.MatchLabels = map[string]string{role: value}
		switch i % 4 {
		case 1:
			s.MatchLabels["arch"] = "arm64"
		case 2:
			s.MatchLabels = nil
			s.MatchExpressions = []metav1.LabelSelectorRequirement{
				{Key: role, Operator: metav1.LabelSelectorOpIn, Values: []string{value, "r0"}},
				{Key: "retired", Operator: metav1.LabelSelectorOpDoesNotExist},
			}
		case 3:
			s.MatchExpressions = []metav1.LabelSelectorRequirement{
				{Key: "arch", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"amd64"}},
				{Key: "site", Operator: metav1.LabelSelectorOpExists},
			}
		}
	}
	return all
}

// index asks for the devices of the same selectors both ways.
func (b *bench) index(context.Context) error {
	const devices, count = 100_000, 40
	f, _ := newFleet(devices)
	sets := make([]labels.Set, devices)
	for i := range sets {
		sets[i] = deviceLabels(i)
	}
	chosen := selectors(count)
	runtime.GC() // what making the fleet left behind
	var indexed, brute series
	for range rounds {
		answers, begin := make([][]wire.DeviceID, count), time.Now()
		for i, s := range chosen {
			found, err := f.Matches(s)
			if err != nil {
				return err
			}
			answers[i] = found
		}
		indexed = append(indexed, time.Since(begin).Seconds()/count)
		begin = time.Now()
		for i := range chosen {
			selector, err := metav1.LabelSelectorAsSelector(&chosen[i])
			if err != nil {
				return err
			}
			var found []wire.DeviceID
			for n, set := range sets {
				if selector.Matches(set) {
					found = append(found, deviceID(n))
				}
			}
			if !slices.Equal(found, answers[i]) {
				return fmt.Errorf("selector %s: the index found %d devices, brute force %d", selector, len(answers[i]), len(found))
			}
		}
		brute = append(brute, time.Since(begin).Seconds()/count)
	}
	b.add(row{what: "brute force over index, 100000 devices, equal answers", unit: "times", values: ratio(brute, indexed), atLeast: 100})
	return nil
}

// heap measures what the core keeps of each device: labels, the desired state as
// it is stored, a state of each Deployment, and a heartbeat.
func (b *bench) heap(context.Context) error {
	const devices = 100_000
	var values series
	for range rounds {
		before := liveHeap()
		f, writes := newFleet(devices)
		if len(writes) != devices {
			return errors.New("not every device has something to run")
		}
		if err := report(f, writes); err != nil {
			return err
		}
		values = append(values, float64(liveHeap()-before)/devices)
		runtime.KeepAlive(f)
	}
	b.add(row{what: "live heap per device, 5 labels and 3 deployments", unit: "bytes", values: values, atMost: 1024})
	return nil
}

// report has the fleet learn everything about each device from bytes, as it
// does in an operator.
func report(f *fleet.Fleet, writes []fleet.DeviceWrite) error {
	now := time.Now()
	seed, err := wire.NewSigningKey()
	if err != nil {
		return err
	}
	signer, err := wire.NewSigner(seed)
	if err != nil {
		return err
	}
	for i, w := range writes {
		stored, err := signer.Sign(w.Device, w.Manifest)
		if err != nil {
			return err
		}
		manifest, err := wire.DecodeSignedManifest(stored)
		if err != nil {
			return err
		}
		f.LoadManifest(w.Device, manifest.Manifest, true)
		for _, put := range w.Put {
			digest := score.DigestOf(put.Score)
			f.LoadStored(w.Device, put.Deployment, digest)
			f.ObserveState(w.Device, put.Deployment, &wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running", Digest: digest}, now)
		}
		f.ObserveHeartbeat(w.Device, wire.Heartbeat{Session: fmt.Sprintf("%08x", i), Generation: manifest.Generation}, now)
	}
	return nil
}

// liveHeap is what is left after a collection, in bytes.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC() // what finalizers and pools held on to in the first
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
