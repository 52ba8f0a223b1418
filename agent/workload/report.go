package workload

import (
	"slices"
	"time"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// messagePause is how long a state whose message alone changed waits to be
// reported: the message of a crash loop changes with each restart.
const messagePause = time.Minute

// say keeps the state of a Deployment and reports it when it is news.
func (m *Manager) say(id wire.DeploymentID, state wire.DeviceState, nextTry time.Time) {
	now := m.options.Clock()
	m.mu.Lock()
	last, heard := m.known[id]
	k := known{state: state, since: last.since, said: last.said, nextTry: nextTry}
	if !heard || last.state.Phase != state.Phase || last.state.Reason != state.Reason {
		k.since = now
	}
	news := !heard || differ(last.state, state)
	if !news && last.state.Message != state.Message {
		news = now.Sub(last.said) >= messagePause
		if !news {
			k.state.Message = last.state.Message
		}
	}
	if news {
		k.said = now
	}
	m.known[id] = k
	m.mu.Unlock()
	if news {
		m.options.Report(id, &state)
	}
}

// differ tells states apart by everything but the message.
func differ(a, b wire.DeviceState) bool {
	return a.Phase != b.Phase || a.Reason != b.Reason || a.Digest != b.Digest || !slices.Equal(a.Containers, b.Containers)
}

// sayGone reports that nothing of the Deployment is left.
func (m *Manager) sayGone(id wire.DeploymentID) {
	m.mu.Lock()
	delete(m.known, id)
	m.mu.Unlock()
	m.options.Report(id, nil)
}
