package load

import (
	"fmt"
	"math/rand/v2"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Namespace of the load's Deployments.
const namespace = "load"

// plan is the fleet that the load stands for. It never changes once it is made.
type plan struct {
	devices     []device
	deployments []deployment
	// pairs are the devices of each Deployment: by brute force, which the
	// operator's answers are held against.
	pairs []pair
	// probes are the pairs that measure the age of a status: their Deployment
	// has no other writes.
	probes []int
}

type device struct {
	id     wire.DeviceID
	labels map[string]string
	// silent devices send no heartbeats from the start of the writes on.
	silent bool
	pairs  []int
}

type deployment struct {
	id       wire.DeploymentID
	selector metav1.LabelSelector
	score    score.Score
	digest   score.Digest
	pairs    []int
	probe    bool
}

// pair is one Deployment on one device that its selector matches.
type pair struct{ device, deployment int }

// Every how many there is one of a kind.
const (
	silentEvery = 50
	probeEvery  = 20
)

// oldDigest is one that no Deployment wants any more: states with it are
// pending.
var oldDigest = score.DigestOf([]byte("a version from before"))

// newPlan makes the fleet: device i is in group i mod deployments, and each
// Deployment selects one group, in one of four ways.
func newPlan(devices, deployments int) (*plan, error) {
	p := &plan{devices: make([]device, devices), deployments: make([]deployment, deployments)}
	groups := make([][]int, deployments)
	for i := range p.devices {
		group := i % deployments
		groups[group] = append(groups[group], i)
		p.devices[i] = device{
			id: wire.DeviceID(fmt.Sprintf("sim-%06d", i)),
			labels: map[string]string{
				"group": groupName(group), "arch": [...]string{"amd64", "arm64", "arm"}[i%3],
				"site": "s" + strconv.Itoa(i/100), "stage": [...]string{"prod", "prod", "prod", "lab"}[i/deployments%4],
			},
			silent: i%silentEvery == 0,
		}
	}
	for j := range p.deployments {
		if err := p.addDeployment(j, groups[j]); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func groupName(group int) string { return "g" + strconv.Itoa(group) }

// addDeployment makes one Deployment and asks the selector of Kubernetes itself
// about each device of the group, which every selector demands.
func (p *plan) addDeployment(j int, group []int) error {
	d := &p.deployments[j]
	*d = deployment{
		id:       wire.DeploymentID{Namespace: namespace, Name: fmt.Sprintf("app-%05d", j)},
		selector: selectorFor(j),
		score: score.Score{PodmanV0: &score.PodmanV0{Services: []score.Service{{
			Name: "web", Image: "registry.example.com/app:" + strconv.Itoa(j),
			Env: []score.EnvVar{{Name: "APP", Value: strconv.Itoa(j)}},
		}}}},
		probe: j%probeEvery == 0,
	}
	canonical, err := score.Encode(d.score)
	if err != nil {
		return err
	}
	d.digest = score.DigestOf(canonical)
	selector, err := metav1.LabelSelectorAsSelector(&d.selector)
	if err != nil {
		return fmt.Errorf("deployment %s: %w", d.id, err)
	}
	for _, i := range group {
		if !selector.Matches(labels.Set(p.devices[i].labels)) {
			continue
		}
		n := len(p.pairs)
		p.pairs = append(p.pairs, pair{i, j})
		d.pairs = append(d.pairs, n)
		p.devices[i].pairs = append(p.devices[i].pairs, n)
	}
	if d.probe && len(d.pairs) > 0 {
		p.probes = append(p.probes, d.pairs[0])
	}
	return nil
}

func selectorFor(group int) metav1.LabelSelector {
	expression := func(key string, operator metav1.LabelSelectorOperator, values ...string) metav1.LabelSelectorRequirement {
		return metav1.LabelSelectorRequirement{Key: key, Operator: operator, Values: values}
	}
	name := groupName(group)
	switch group % 4 {
	case 0:
		return metav1.LabelSelector{MatchLabels: map[string]string{"group": name}}
	case 1:
		return metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			expression("group", metav1.LabelSelectorOpIn, name, "no-such-group")}}
	case 2:
		return metav1.LabelSelector{MatchLabels: map[string]string{"group": name},
			MatchExpressions: []metav1.LabelSelectorRequirement{expression("stage", metav1.LabelSelectorOpNotIn, "lab")}}
	}
	return metav1.LabelSelector{MatchLabels: map[string]string{"group": name},
		MatchExpressions: []metav1.LabelSelectorRequirement{
			expression("site", metav1.LabelSelectorOpExists), expression("retired", metav1.LabelSelectorOpDoesNotExist)}}
}

func (d device) info() wire.DeviceInfo {
	return wire.DeviceInfo{Labels: d.labels, Inventory: wire.Inventory{
		Hostname: string(d.id), Architecture: d.labels["arch"], OperatingSystem: "Debian GNU/Linux 12 (bookworm)",
		KernelVersion: "6.1.0", PodmanVersion: "4.3.1", AgentVersion: "load", CPUCount: 4, MemoryBytes: 4 << 30, DiskBytes: 32 << 30,
	}}
}

func (d deployment) resource() *v1alpha1.Deployment {
	return &v1alpha1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: d.id.Namespace, Name: d.id.Name},
		Spec:       v1alpha1.DeploymentSpec{TargetSelector: d.selector, Score: d.score},
	}
}

func namespaceResource(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// draw makes a device's next state of a Deployment: mostly succeeded, sometimes
// failed, sometimes of an old version.
func draw(random *rand.Rand) truth {
	t := truth{phase: wire.PhaseSucceeded, current: true}
	switch roll := random.IntN(100); {
	case roll < 12:
		t.phase = wire.PhaseFailed
	case roll < 20:
		t.phase = wire.PhasePending
	case roll < 23:
		t.current = false
	}
	return t
}

// truth is how one pair stands, by what was last written of it.
type truth struct {
	phase   wire.Phase // "" before the first write
	current bool       // it speaks of the wanted digest
	serial  uint64     // the order of the writes, from 1
}

// failure is the message of a failed write, which tells itself apart.
func (t truth) failure() string {
	return fmt.Sprintf("reading manifest: manifest unknown: attempt %d", t.serial)
}

const failureReason = "ImagePullFailed"

// state is the payload that says it.
func (t truth) state(d deployment) wire.DeviceState {
	s := wire.DeviceState{Phase: t.phase, Reason: "Running", Digest: d.digest}
	if !t.current {
		s.Digest = oldDigest
	}
	switch t.phase {
	case wire.PhaseFailed:
		s.Reason, s.Message = failureReason, t.failure()
	case wire.PhasePending:
		s.Reason = "Pulling"
	default:
		s.Containers = []wire.ContainerRef{{Service: "web", ID: fmt.Sprintf("%064x", t.serial)}}
	}
	return s
}

// recount counts one Deployment's pairs anew. A silent device is unreachable.
// The time of lastError is the broker's, and left out.
func (p *plan) recount(j int, truths []truth) v1alpha1.Aggregate {
	var (
		a      v1alpha1.Aggregate
		newest truth
	)
	for _, n := range p.deployments[j].pairs {
		a.MatchedDeviceCount++
		if p.devices[p.pairs[n].device].silent {
			a.Unreachable++
		}
		switch t := truths[n]; {
		case t.current && t.phase == wire.PhaseSucceeded:
			a.Succeeded++
		case t.current && t.phase == wire.PhaseFailed:
			a.Failed++
			if t.serial > newest.serial {
				newest = t
				a.LastError = &v1alpha1.LastError{
					Device: string(p.devices[p.pairs[n].device].id), Reason: failureReason, Message: t.failure()}
			}
		default:
			a.Pending++
		}
	}
	return a
}
