package fleet

import (
	"fmt"
	"reflect"
	"strings"
	"unique"

	"github.com/RoaringBitmap/roaring/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Deployment is what the core needs of a Deployment resource.
type Deployment struct {
	ID         wire.DeploymentID
	UID        string
	Generation int64
	Selector   metav1.LabelSelector
	// Score in its canonical encoding, the digest of it, and the secrets that it
	// names, sorted.
	Score   []byte
	Digest  score.Digest
	Secrets []string
	// Paused holds what is stored as it is. Deleting takes all of it back,
	// paused or not.
	Paused, Deleting bool
	// Invalid says why the spec cannot be carried out; "" when it can. While it
	// is set, what is stored stays as it is.
	Invalid string
	// Status as the resource has it: transition times go on from it, and what
	// it says already is not patched again. It counts when the Deployment is
	// first set; from the first acknowledged patch on, that is the base, since a
	// cache may show an older status than the one just written.
	Status v1alpha1.DeploymentStatus
}

// maxInvalid bounds Deployment.Invalid, in bytes: it becomes a condition's
// message.
const maxInvalid = 1024

// DeploymentFrom reads a resource. Whatever is wrong with it is in Invalid.
func DeploymentFrom(cr *v1alpha1.Deployment) Deployment {
	d := Deployment{
		ID:  wire.DeploymentID{Namespace: cr.Namespace, Name: cr.Name},
		UID: string(cr.UID), Generation: cr.Generation, Selector: cr.Spec.TargetSelector,
		Paused: cr.Spec.Paused, Deleting: cr.DeletionTimestamp != nil, Status: cr.Status,
	}
	if err := d.read(cr.Spec); err != nil {
		d.Invalid = wire.CleanText(err.Error(), maxInvalid)
	}
	return d
}

func (d *Deployment) read(spec v1alpha1.DeploymentSpec) error {
	if _, err := wire.ParseDeploymentID(d.ID.Namespace, d.ID.Name); err != nil {
		return fmt.Errorf("metadata.name: %w", err)
	}
	switch required, err := requirements(spec.TargetSelector); {
	case err != nil:
		return fmt.Errorf("spec.targetSelector: %w", err)
	case len(required) == 0:
		return fmt.Errorf("spec.targetSelector: it is empty and would match nothing; to choose every device write matchExpressions: [{key: %s, operator: Exists}]", v1alpha1.LabelDeviceID)
	}
	if err := spec.Score.Validate(); err != nil {
		return fmt.Errorf("spec.score: %w", err)
	}
	encoded, err := score.Encode(spec.Score)
	if err != nil {
		return fmt.Errorf("spec.score: %w", err)
	}
	d.Score, d.Digest, d.Secrets = encoded, score.DigestOf(encoded), spec.Score.PodmanV0.SecretNames()
	return nil
}

// deployment is one Deployment that anything was heard of: of a resource, or of
// a device's state or store.
type deployment struct {
	id    wire.DeploymentID
	token string
	// known: it has a resource. gone: it certainly has none.
	known, gone bool

	// What the resource says, while known.
	uid              string
	generation       int64
	source           metav1.LabelSelector
	selector         *selector // nil: matches nothing
	score            []byte
	digest           digest
	secrets          []string // that devices may read
	paused, deleting bool
	invalid          string

	matched set // devices that the selector matches
	holders set // devices whose record is stored
	records int // records of the Deployment
	// counts of the matched devices by class; the first means nothing.
	counts [numClasses]int32
	// failures by device, of every record whose phase is failed.
	failures map[uint32]failure

	status
}

// held reports whether what is stored stays as it is.
func (dep *deployment) held() bool { return dep.paused || dep.invalid != "" }

func (f *Fleet) deployment(id wire.DeploymentID) *deployment {
	dep := f.deployments[id]
	if dep == nil {
		// Clones: both may be parts of a message's subject.
		id = wire.DeploymentID{Namespace: strings.Clone(id.Namespace), Name: strings.Clone(id.Name)}
		dep = &deployment{id: id, token: id.Token()}
		f.deployments[id] = dep
	}
	return dep
}

// freeDeployment forgets a Deployment that has no resource and no record.
func (f *Fleet) freeDeployment(dep *deployment) {
	if !dep.known && dep.records == 0 {
		delete(f.deployments, dep.id)
	}
}

// SetDeployment tells that a Deployment was seen or has changed.
func (f *Fleet) SetDeployment(in Deployment) {
	dep := f.deployment(in.ID)
	created := !dep.known || dep.uid != in.UID
	if !dep.known {
		f.knownDeployments++
	}
	dep.known, dep.gone = true, false
	dep.adopt(in, created)
	if created || dep.generation != in.Generation || dep.paused != in.Paused || dep.deleting != in.Deleting || dep.invalid != in.Invalid {
		f.touch(dep)
	}
	held := dep.held()
	turned := dep.deleting != in.Deleting
	dep.uid, dep.generation, dep.score = in.UID, in.Generation, in.Score
	dep.paused, dep.deleting, dep.invalid = in.Paused, in.Deleting, in.Invalid
	if created || !dep.held() { // otherwise what is stored stays
		dep.secrets = in.Secrets
	}
	if created || turned || held != dep.held() {
		f.replanAll(dep)
	}
	f.rescore(dep, in.Digest)
	if in.Deleting {
		in.Selector = metav1.LabelSelector{}
	}
	f.reselect(dep, in.Selector)
}

// RemoveDeployment tells that a Deployment is certainly gone: what is stored of
// it is taken back.
func (f *Fleet) RemoveDeployment(id wire.DeploymentID) {
	dep := f.deployments[id]
	if dep == nil {
		return
	}
	f.reselect(dep, metav1.LabelSelector{})
	if dep.known {
		f.knownDeployments--
	}
	dep.known, dep.gone = false, true
	dep.score, dep.digest, dep.secrets, dep.invalid, dep.paused, dep.deleting = nil, digest{}, nil, "", false, false
	dep.status = status{queued: dep.queued}
	f.replanAll(dep)
	f.freeDeployment(dep)
}

// rescore makes another score the wanted one.
func (f *Fleet) rescore(dep *deployment, wanted score.Digest) {
	var want digest
	if wanted != "" {
		want = unique.Make(wanted)
	}
	if want == dep.digest {
		return
	}
	dep.digest = want
	for _, slot := range dep.matched.slots() {
		d := f.devices[slot]
		f.settle(d, d.find(dep))
		f.replan(d)
	}
}

// reselect makes another selector the wanted one and moves the devices that are
// matched by one of them only.
func (f *Fleet) reselect(dep *deployment, wanted metav1.LabelSelector) {
	if reflect.DeepEqual(dep.source, wanted) {
		return
	}
	if old := dep.selector; old != nil {
		f.index.unfile(old)
		defer f.index.release(old)
	}
	dep.source, dep.selector = *wanted.DeepCopy(), nil
	found := roaring.New()
	// A selector that cannot be compiled matches nothing; Invalid says why.
	if s, err := f.index.compile(wanted, dep); err == nil && len(s.terms) > 0 {
		dep.selector = s
		f.index.file(s)
		found = f.index.find(s)
	}
	old := dep.matched.bitmap()
	gained, lost := roaring.AndNot(found, old).ToArray(), roaring.AndNot(old, found).ToArray()
	for _, slot := range lost {
		d := f.devices[slot]
		f.unmatch(d, d.find(dep))
		f.prune(d)
	}
	for _, slot := range gained {
		f.match(f.devices[slot], dep)
	}
}

// replanAll looks anew at each device that runs the Deployment or shall.
func (f *Fleet) replanAll(dep *deployment) {
	for _, devices := range []*set{&dep.matched, &dep.holders} {
		for _, slot := range devices.slots() {
			f.replan(f.devices[slot])
		}
	}
}
