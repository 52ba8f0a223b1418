package fleet

import (
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
)

// patchInterval is the shortest time between two status patches of a Deployment.
const patchInterval = time.Second

// status is what is known of a Deployment's status.
type status struct {
	// base is what the resource says: as read, and from the first patch that
	// was acknowledged on (written) as patched.
	base    v1alpha1.DeploymentStatus
	written bool

	queued   bool      // in Fleet.moved
	since    time.Time // when it was queued
	patching bool      // in flight
	patched  time.Time // when the last patch was taken

	// lastError is valid until errorsMoved.
	lastError   *v1alpha1.LastError
	errorsMoved bool
}

// adopt takes over the status that the resource has.
func (dep *deployment) adopt(in Deployment, created bool) {
	if created {
		dep.status.written, dep.patching = false, false
	}
	if !dep.written {
		dep.base = *in.Status.DeepCopy()
	}
}

// touch puts a Deployment on the list of those whose status may have moved.
func (f *Fleet) touch(dep *deployment) {
	if dep.known && !dep.queued {
		dep.queued, dep.since = true, f.clock
		f.moved = append(f.moved, dep)
	}
}

// TakeStatus takes at most limit statuses that changed, oldest change first, and
// each Deployment at most once a second. What is taken is in flight until
// StatusWritten.
func (f *Fleet) TakeStatus(now time.Time, limit int) []StatusPatch {
	if !f.converged {
		return nil
	}
	f.advance(now)
	var taken []StatusPatch
	waiting := f.moved[:0]
	for _, dep := range f.moved {
		if dep.known && (dep.patching || len(taken) >= limit || now.Sub(dep.patched) < patchInterval) {
			waiting = append(waiting, dep)
			continue
		}
		dep.queued = false
		if !dep.known {
			continue
		}
		if p, moved := f.patch(dep, now); moved {
			dep.patching, dep.patched = true, now
			taken = append(taken, p)
		}
	}
	f.moved = waiting
	return taken
}

// StatusWritten tells how a patch ended. A Deployment that is not there any more
// counts as written.
func (f *Fleet) StatusWritten(p StatusPatch, ok bool) {
	dep := f.deployments[p.ID]
	if dep == nil || !dep.patching || dep.uid != p.UID {
		return
	}
	dep.patching = false
	if ok {
		dep.base, dep.written = p.Status, true
		return
	}
	if f.touch(dep); p.Since.Before(dep.since) {
		dep.since = p.Since
	}
}

func (f *Fleet) patch(dep *deployment, now time.Time) (p StatusPatch, moved bool) {
	if dep.errorsMoved {
		dep.lastError, dep.errorsMoved = f.lastError(dep), false
	}
	aggregate := dep.aggregate()
	v := judgeDeployment(dep, aggregate)
	next := v1alpha1.DeploymentStatus{
		ObservedGeneration: dep.generation,
		Aggregate:          aggregate,
		Conditions:         v.conditions(dep.base.Conditions, dep.generation, now),
	}
	if equality.Semantic.DeepEqual(dep.base, next) {
		return StatusPatch{}, false
	}
	p = StatusPatch{ID: dep.id, UID: dep.uid, Status: next, Since: dep.since}
	old := meta.FindStatusCondition(dep.base.Conditions, v1alpha1.ConditionReady)
	if v.event != "" && (old == nil || old.Reason != v.reason) {
		p.Event = &Event{Type: v.event, Reason: v.reason, Message: v.message}
	}
	return p, true
}

// aggregate is the counters as the status shows them.
func (dep *deployment) aggregate() v1alpha1.Aggregate {
	of := func(p phase) int32 { return dep.counts[classOf(p, true)] + dep.counts[classOf(p, false)] }
	a := v1alpha1.Aggregate{
		Succeeded: of(succeeded), Failed: of(failed), Pending: of(pending),
		Unreachable: dep.counts[classOf(succeeded, false)] + dep.counts[classOf(failed, false)] + dep.counts[classOf(pending, false)],
		LastError:   dep.lastError.DeepCopy(),
	}
	a.MatchedDeviceCount = a.Succeeded + a.Failed + a.Pending
	return a
}
