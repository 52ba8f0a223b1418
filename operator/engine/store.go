package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/operator/fleet"
)

const (
	// batchMessages is how many messages are handed to the broker's adapter at
	// once; it makes several atomic batches of them.
	batchMessages = 4000
	// callTimeout bounds one exchange with the broker or the API server.
	callTimeout = 20 * time.Second
	// compareInterval is the time between two looks at the broker while nothing
	// seems to happen to it.
	compareInterval = 10 * time.Second
	// auditSample is how many Deployments one audit recounts.
	auditSample = 100
)

// retry is the pause after failures of the broker: 250 ms, doubling to 10 s, with
// jitter so that operators do not come in step.
func retry() wait.Backoff {
	return wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 7, Cap: 10 * time.Second}
}

// awaitFit waits until the broker is fit for the fleet and says meanwhile why it
// is not. It returns false when ctx ends.
func (e *Engine) awaitFit(ctx context.Context, conn *bus.Conn) bool {
	for backoff := retry(); ; {
		if e.verify(ctx, conn) == nil {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(backoff.Step()):
		}
	}
}

// verify checks the broker and keeps what is wrong for readiness and people; it
// is logged when it is another problem than before. A broker that was fit and is
// out of reach now is not unfit.
func (e *Engine) verify(ctx context.Context, conn *bus.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	problem := conn.Verify(ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.problem == nil && errors.Is(problem, bus.ErrDisconnected) {
		return problem
	}
	if problem != nil && ctx.Err() == nil && (e.problem == nil || problem.Error() != e.problem.Error()) {
		e.o.Log.Error(problem, "the broker is not fit for use")
	}
	e.problem = problem
	return problem
}

// store keeps the desired-state bucket as the core wants it. One goroutine does
// all of it, so that loads and writes never meet.
type store struct {
	e    *Engine
	conn *bus.Conn

	compared   bool            // false when the broker is to be looked at
	connection int64           // the connection over which that was done last
	state      bus.StreamState // the stream as it was when it was last looked at
	stored     uint64          // messages that were certainly stored since then
	moved      bool            // the stream is to be looked at: it was read, or written to
	loaded     bool
	auditDue   bool
}

func newStore(e *Engine, conn *bus.Conn) *store { return &store{e: e, conn: conn} }

func (s *store) run(ctx context.Context) {
	audit := time.NewTicker(time.Duration(s.e.o.Config.AuditInterval))
	defer audit.Stop()
	compare := time.NewTicker(compareInterval)
	defer compare.Stop()
	backoff := retry()
	for ctx.Err() == nil {
		if err := s.step(ctx); err != nil && ctx.Err() == nil {
			pause := backoff.Step()
			s.e.o.Log.Info("desired state is not written; trying again", "reason", err.Error(), "pause", pause)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			continue
		}
		backoff = retry()
		select {
		case <-ctx.Done():
		case <-s.e.wake:
		case <-compare.C:
			s.compared = false
		case <-audit.C:
			s.auditDue = true
		}
	}
}

// step brings the bucket up to date: after a new connection, and now and then, it
// checks whether the broker is still the one that is remembered, and loads the
// bucket when not.
func (s *store) step(ctx context.Context) error {
	if current := s.e.connections.Load(); !s.compared || current != s.connection {
		if err := s.compare(ctx); err != nil {
			return err
		}
		s.compared, s.connection = true, current
	}
	if !s.loaded {
		if err := s.load(ctx); err != nil {
			return err
		}
	}
	if _, err := s.flush(ctx, s.e.o.Now()); err != nil {
		return err
	}
	if s.auditDue {
		s.auditDue = false
		return s.audit(ctx)
	}
	return nil
}

// compare checks the broker, and whether its store may have lost something.
func (s *store) compare(ctx context.Context) error {
	if err := s.e.verify(ctx, s.conn); err != nil {
		return err
	}
	if !s.loaded {
		return nil
	}
	return s.recognise(ctx)
}

// recognise looks at the stream, and has it loaded anew when it is younger or
// shorter than it was, or holds messages that this operator does not know to be
// stored: what the one before it sent last may arrive late, and after an error
// nothing is certain.
func (s *store) recognise(ctx context.Context) error {
	now, err := s.look(ctx)
	if err != nil {
		return err
	}
	if known := s.state.LastSequence + s.stored; !now.Created.Equal(s.state.Created) || now.LastSequence != known {
		s.e.o.Log.Info("the broker's store is not what was read and written; reading it again",
			"sequence", now.LastSequence, "known", known)
		s.loaded = false
		s.e.poke()
	}
	s.state, s.stored, s.moved = now, 0, false
	return nil
}

func (s *store) look(ctx context.Context) (bus.StreamState, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.conn.State(ctx, wire.DesiredState)
}

// load replaces what the core believes stored by what is stored.
func (s *store) load(ctx context.Context) error {
	s.e.replaying(storedSource, (*fleet.Fleet).ResetStored)
	state, err := s.conn.Snapshot(ctx, wire.DesiredState, s.entry)
	if err != nil {
		return fmt.Errorf("reading desired state: %w", err)
	}
	s.state, s.stored, s.loaded, s.moved = state, 0, true, true
	s.e.replayed(storedSource)
	return nil
}

// entry tells the core of one stored manifest or score.
func (s *store) entry(entry bus.Entry) {
	if entry.Deleted {
		return
	}
	if id, dep, err := wire.ParseDeploymentKey(entry.Key); err == nil {
		digest := score.DigestOf(entry.Value)
		s.e.mu.Lock()
		s.e.core.LoadStored(id, dep, digest)
		s.e.mu.Unlock()
		return
	}
	id, err := wire.ParseDeviceKey(entry.Key)
	if err != nil {
		s.e.poison.found(wire.DesiredState, entry.Key, err)
		return
	}
	manifest, err := wire.DecodeSignedManifest(entry.Value)
	if err != nil {
		s.e.poison.found(wire.DesiredState, entry.Key, err)
		return
	}
	signed := s.e.o.Signer.Signed(id, manifest)
	s.e.mu.Lock()
	s.e.core.LoadManifest(id, manifest.Manifest, signed)
	s.e.mu.Unlock()
}

// flush writes until nothing is to be written at that time and returns how many
// devices it wrote for.
func (s *store) flush(ctx context.Context, now time.Time) (devices int, err error) {
	for {
		s.e.mu.Lock()
		writes := s.e.core.TakeWrites(now, batchMessages)
		s.e.mu.Unlock()
		if len(writes) == 0 {
			break
		}
		s.moved = true
		if err := s.write(ctx, writes); err != nil {
			return devices, err
		}
		devices += len(writes)
	}
	if !s.moved {
		return devices, nil
	}
	return devices, s.recognise(ctx)
}

// write stores a batch and tells the core what is certain to be stored.
func (s *store) write(ctx context.Context, writes []fleet.DeviceWrite) error {
	units := make([][]bus.Message, len(writes))
	var encodeErr error
	for i, w := range writes {
		if units[i], encodeErr = s.messages(w); encodeErr != nil {
			break
		}
	}
	var stored []bool
	err := encodeErr
	if err == nil {
		callCtx, cancel := context.WithTimeout(ctx, callTimeout)
		stored, err = s.conn.Write(callCtx, units)
		cancel()
	}
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	for i, w := range writes {
		ok := i < len(stored) && stored[i]
		s.e.core.Written(w, ok)
		s.e.metrics.wrote(ok)
		if ok {
			s.stored += uint64(w.Messages())
		}
	}
	if err != nil {
		return fmt.Errorf("writing desired state: %w", err)
	}
	return nil
}

// messages is one atomic write; the manifest comes last, so that a device that
// hears of it finds the rest stored.
func (s *store) messages(w fleet.DeviceWrite) ([]bus.Message, error) {
	unit := make([]bus.Message, 0, w.Messages())
	for _, put := range w.Put {
		unit = append(unit, bus.Message{Key: wire.DeploymentKey(w.Device, put.Deployment), Value: put.Score})
	}
	for _, dep := range w.Delete {
		unit = append(unit, bus.Message{Key: wire.DeploymentKey(w.Device, dep), Delete: true})
	}
	manifest, err := s.e.o.Signer.Sign(w.Device, w.Manifest)
	if err != nil {
		return nil, err
	}
	return append(unit, bus.Message{Key: wire.DeviceKey(w.Device), Value: manifest}), nil
}

// audit renews what is signed, recounts some Deployments, and compares the bucket
// with what it shall be by loading it and writing what is missing. Every
// difference is a bug, or somebody else wrote. All of it is done as of one moment:
// what is to be renewed a moment later is no difference.
func (s *store) audit(ctx context.Context) error {
	now := s.e.o.Now()
	s.e.mu.Lock()
	s.e.core.Renew(now)
	differences, changes := s.e.core.Audit(auditSample), s.e.changes
	s.e.mu.Unlock()
	for _, d := range differences {
		s.e.metrics.differences.Inc()
		s.e.o.Log.Error(nil, "an audit found a wrong counter", "deployment", d.Deployment.String(),
			"counter", d.Counter, "counted", d.Counted, "recounted", d.Recounted)
	}
	if _, err := s.flush(ctx, now); err != nil {
		return err
	}
	s.loaded = false
	if err := s.load(ctx); err != nil {
		return err
	}
	devices, err := s.flush(ctx, now)
	if err != nil || devices == 0 {
		return err
	}
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	if changes == s.e.changes { // otherwise a resource that moved meanwhile explains the writes
		s.e.metrics.differences.Add(float64(devices))
		s.e.o.Log.Error(nil, "an audit found desired state that differed from the store; it was written again", "devices", devices)
	}
	return nil
}
