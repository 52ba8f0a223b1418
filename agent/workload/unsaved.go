package workload

import (
	"errors"
	"syscall"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// notSaved is what to say of each Deployment of the next desired state that the held
// one has not, when err kept that from being saved; nothing without an error.
func notSaved(held, next store.Desired, err error) map[wire.DeploymentID]wire.DeviceState {
	if err == nil {
		return nil
	}
	states := map[wire.DeploymentID]wire.DeviceState{}
	for id, w := range next.Deployments {
		if held.Deployments[id].Digest != w.Digest {
			states[id] = wire.DeviceState{
				Phase: wire.PhaseFailed, Reason: saveReason(err), Digest: w.Digest, Message: wire.CleanText(err.Error(), wire.MaxMessage),
			}
		}
	}
	return states
}

// saveReason is what an error of the state directory means.
func saveReason(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return reconcile.ReasonDiskFull
	case errors.Is(err, syscall.EROFS):
		return reconcile.ReasonDiskReadOnly
	}
	return reconcile.ReasonStateNotSaved
}

// unsavedStates are shared: they must not be changed.
func (m *Manager) unsavedStates() map[wire.DeploymentID]wire.DeviceState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.unsaved
}
