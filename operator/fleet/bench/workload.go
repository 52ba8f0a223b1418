package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/fleet"
)

// start is the time at which every measurement begins.
var start = time.Unix(1_800_000_000, 0)

// workload is a made-up fleet. A device has five labels, and three Deployments
// or so whatever the sizes are: seven selectors in ten choose devices of one site,
// the others by model and region, as one rolls out to a kind of hardware.
type workload struct {
	devices     []device
	deployments []fleet.Deployment
}

type device struct {
	id     wire.DeviceID
	labels map[string]string
}

func newWorkload(devices, deployments int) workload {
	random := rand.New(rand.NewPCG(1, 2))
	var w workload
	sites := max(1, deployments/7)
	pick := func(kind string, of int) string { return fmt.Sprintf("%s-%d", kind, random.IntN(of)) }
	for i := range devices {
		w.devices = append(w.devices, device{
			id: wire.DeviceID(fmt.Sprintf("device-%06d", i)),
			labels: map[string]string{
				"site": pick("site", sites), "model": pick("model", 50), "region": pick("region", 20),
				"env": environments[random.IntN(4)], "arch": pick("arch", 3),
			},
		})
	}
	for i := range deployments {
		data := fmt.Appendf(nil, `{"score":%d}`, i)
		d := fleet.Deployment{
			ID: wire.DeploymentID{Namespace: "default", Name: fmt.Sprintf("app-%d", i)}, UID: fmt.Sprint(i), Generation: 1,
			Score: data, Digest: score.DigestOf(data),
		}
		d.Selector.MatchLabels = map[string]string{"site": pick("site", sites)}
		if i%10 < 3 {
			d.Selector.MatchLabels = map[string]string{"model": pick("model", 50), "region": pick("region", 20)}
		}
		d.Selector.MatchExpressions = []metav1.LabelSelectorRequirement{
			{Key: "env", Operator: metav1.LabelSelectorOpIn, Values: []string{environments[i%4], environments[(i+1)%4]}},
			{Key: "decommissioned", Operator: metav1.LabelSelectorOpDoesNotExist},
		}
		w.deployments = append(w.deployments, d)
	}
	return w
}

var environments = []string{"production", "staging", "test", "development"}

// fleet is a Fleet that knows the workload and has nothing left to do.
func (w workload) fleet() *fleet.Fleet {
	f := fleet.New(fleet.Options{})
	for _, d := range w.deployments {
		f.SetDeployment(d)
	}
	for _, d := range w.devices {
		f.SetDevice(d.id, d.labels, nil)
		f.ObserveHeartbeat(d.id, wire.Heartbeat{Session: "0badcafe"}, start)
	}
	f.Converge()
	drain(f, start)
	return f
}

// drain takes every effect, as if the world carried it out at once, and lets
// each device report that it did as it was told.
func drain(f *fleet.Fleet, now time.Time) {
	for _, w := range f.TakeWrites(1 << 30) {
		f.Written(w, true)
		for _, put := range w.Put {
			f.ObserveState(w.Device, put.Deployment, &wire.DeviceState{
				Phase: wire.PhaseSucceeded, Reason: "Succeeded", Digest: w.Manifest.Deployments[put.Deployment.Token()].Digest,
			}, now)
		}
	}
	f.TakeWrites(1 << 30)
	for _, p := range f.TakeStatus(now, 1<<30) {
		f.StatusWritten(p, true)
	}
	for _, p := range f.TakeDevices(now, 1<<30) {
		f.DeviceWritten(p, true)
	}
}
