package roster

import (
	"errors"
	"sync"
	"time"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// memory has what is decided of every device. client-go's reflector fills it.
type memory struct {
	now func() time.Time
	// changed has a value when there is something for takeShut.
	changed chan struct{}

	mu      sync.RWMutex
	decided map[wire.DeviceID]decision
	heard   time.Time              // when the API server told anything last
	shut    map[wire.DeviceID]bool // may not be connected any more as they were
}

func newMemory(now func() time.Time) *memory {
	return &memory{now: now, changed: make(chan struct{}, 1), decided: map[wire.DeviceID]decision{}, shut: map[wire.DeviceID]bool{}}
}

func (m *memory) lastHeard() time.Time {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.heard
}

// get is policy.ErrNone for a device that nothing was told of.
func (m *memory) get(id wire.DeviceID) decision {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if d, found := m.decided[id]; found {
		return d
	}
	return decision{err: policy.ErrNone}
}

// takeShut returns the devices to cut off, each once.
func (m *memory) takeShut() (ids []wire.DeviceID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.shut {
		ids = append(ids, id)
	}
	clear(m.shut)
	return ids
}

// Add implements cache.ReflectorStore.
func (m *memory) Add(object any) error { return m.Update(object) }

// Update implements cache.ReflectorStore.
func (m *memory) Update(object any) error {
	o, ok := object.(*v1alpha1.DevicePolicy)
	if !ok {
		return errors.New("not a DevicePolicy")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hear()
	m.set(wire.DeviceID(o.Name), decide(o))
	return nil
}

// Delete implements cache.ReflectorStore.
func (m *memory) Delete(object any) error {
	o, ok := object.(*v1alpha1.DevicePolicy)
	if !ok {
		return errors.New("not a DevicePolicy")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hear()
	m.set(wire.DeviceID(o.Name), decision{err: policy.ErrNone})
	delete(m.decided, wire.DeviceID(o.Name))
	return nil
}

// Replace implements cache.ReflectorStore. What was deleted meanwhile is missing
// from the list.
func (m *memory) Replace(list []any, _ string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hear()
	gone := m.decided
	m.decided = make(map[wire.DeviceID]decision, len(list))
	for _, object := range list {
		o, ok := object.(*v1alpha1.DevicePolicy)
		if !ok {
			return errors.New("not a DevicePolicy")
		}
		id, now := wire.DeviceID(o.Name), decide(o)
		before, known := gone[id]
		delete(gone, id)
		m.decided[id] = now
		m.compare(id, before, now, known)
	}
	for id, before := range gone {
		m.compare(id, before, decision{err: policy.ErrNone}, true)
	}
	return nil
}

// Resync implements cache.ReflectorStore.
func (m *memory) Resync() error { return nil }

// UpdateResourceVersion implements cache.ResourceVersionUpdater: it hears of
// bookmarks too, which come once a minute where nothing changes.
func (m *memory) UpdateResourceVersion(string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hear()
}

// goesOn notes that a watch goes on where the last one ended: what was missed comes
// next, and if nothing was, nothing comes for a minute.
func (m *memory) goesOn() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.heard.IsZero() {
		m.hear()
	}
}

// hear notes that the API server told something; with mu.
func (m *memory) hear() { m.heard = m.now() }

// set remembers a decision; with mu.
func (m *memory) set(id wire.DeviceID, now decision) {
	before, known := m.decided[id]
	m.decided[id] = now
	m.compare(id, before, now, known)
}

// compare notes who is to be cut off: whoever is revoked and was not known to be,
// has no usable policy any more, or had another key. With mu.
func (m *memory) compare(id wire.DeviceID, before, now decision, known bool) {
	switch {
	case !known && !errors.Is(now.err, policy.ErrRevoked):
		return
	case known && (before.err != nil || now.err == nil && (before.policy.NKey == "" || before.policy.NKey == now.policy.NKey)):
		return
	}
	m.shut[id] = true
	select {
	case m.changed <- struct{}{}:
	default: // there is one already
	}
}
