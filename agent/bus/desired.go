package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nationtech/harmony-fleet/agent/backoff"
	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// errNoKey says that a key has no value.
var errNoKey = errors.New("no such key")

// errBehind says that the answer is older than a write that was announced: the
// broker lets replicas answer that may lag.
var errBehind = errors.New("the broker's answer is older than the last announced write")

// maxBehind bounds the reads for one hint, since a hint may be forged.
const maxBehind = 5

// reader is what one connection knows of the desired state.
type reader struct {
	*session
	// announced is the highest sequence that a hint named, and behind how many
	// reads did not reach it.
	announced uint64
	behind    int
	// logged is the last finding, so that each is logged once.
	logged string
}

// follow reads the desired state at once, after each hint, after a failure, and
// now and then: hints are sent once and may be lost. There is no need to look
// for gaps in their sequence, because each read is of everything.
func (s *session) follow(ctx context.Context) {
	r := &reader{session: s}
	for failures := 0; ctx.Err() == nil; {
		wait := s.timing.audit + rand.N(2*s.timing.audit)
		if err := r.read(ctx); err == nil {
			failures = 0
		} else if ctx.Err() == nil {
			wait = s.timing.retry + backoff.FullJitter(failures, s.timing.retry, s.timing.retryMax)
			failures++
			r.once("desired state not read, trying again until it is", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case hint := <-s.hints:
			r.hear(hint)
			if !backoff.Sleep(ctx, rand.N(s.timing.hint)) {
				break
			}
			for len(s.hints) > 0 {
				r.hear(<-s.hints)
			}
		}
		timer.Stop()
	}
}

// hear takes of a hint that there was a write, and which: nothing in it can be
// trusted further.
func (r *reader) hear(hint *nats.Msg) {
	sequence, err := strconv.ParseUint(hint.Header.Get("Nats-Sequence"), 10, 64)
	if err == nil && sequence > r.announced {
		r.announced, r.behind = sequence, 0
	}
}

// read brings the workloads to the manifest's generation when that is newer than
// what they hold. It fails when the read should be repeated soon.
func (r *reader) read(ctx context.Context) error {
	held := r.Workloads.Desired()
	sequence, manifest, err := r.manifest(ctx, held.Trusted(r.TrustedKeys))
	switch {
	case errors.Is(err, errNoKey):
		r.once("no manifest to go by, keeping what runs", err) // it does not say that nothing shall run
		return r.reached(sequence)
	case errors.Is(err, wire.ErrMalformed), errors.Is(err, wire.ErrUntrusted):
		return r.refuse(sequence, err)
	case err != nil:
		return err
	}
	if manifest.Generation < held.Generation {
		return r.refuse(sequence, fmt.Errorf("manifest is older than what is held: generation %d is below %d", manifest.Generation, held.Generation))
	}
	if manifest.Generation == held.Generation {
		r.Refused(nil)
		return r.reached(sequence)
	}
	if err := manifest.Fresh(r.Now()); err != nil {
		return r.refuse(sequence, err)
	}
	next, missing := compare(manifest, held)
	next.Hold = r.hold(manifest, held.Hold)
	next.Trust = store.Trust{Configured: r.TrustedKeys, Named: manifest.Keys}
	if err := r.fetch(ctx, next, missing); err != nil {
		return err
	}
	if err := r.Workloads.Apply(next); err != nil {
		return fmt.Errorf("applying generation %d: %w", next.Generation, err)
	}
	r.logged = ""
	r.Refused(nil)
	r.Log.Info("desired state applied", "generation", next.Generation, "deployments", len(next.Deployments), "changed", len(missing))
	return r.reached(sequence)
}

// hold is what the manifest asks for. One that is held already was set when it was
// first seen.
func (r *reader) hold(manifest wire.Manifest, held hold.Hold) hold.Hold {
	if manifest.HoldUntil.IsZero() {
		return hold.Hold{}
	}
	next := hold.Hold{Set: r.Now(), Until: manifest.HoldUntil, By: wire.HeldByCluster}.Plain()
	if held.Until.Equal(next.Until) {
		next.Set = held.Set
	}
	return next
}

// refuse keeps what is held, and says why.
func (r *reader) refuse(sequence uint64, reason error) error {
	r.once("desired state refused, keeping what runs", reason)
	r.Refused(reason)
	return r.reached(sequence)
}

// reached fails with errBehind when a hint announced a later write, and gives up
// on that after maxBehind reads.
func (r *reader) reached(sequence uint64) error {
	if r.announced <= sequence {
		return nil
	}
	if r.behind++; r.behind >= maxBehind {
		r.announced = sequence
		return nil
	}
	return errBehind
}

// once logs a finding unless it was the last one too.
func (r *reader) once(message string, err error) {
	finding := message + err.Error()
	if errors.Is(err, wire.ErrExpired) {
		finding = message + wire.ErrExpired.Error() // what it says in full has the time in it
	}
	if finding != r.logged {
		r.logged = finding
		r.Log.Info(message, "problem", err.Error())
	}
}

// manifest reads the device's manifest and checks who signed it. It fails with
// errNoKey, wire.ErrMalformed, wire.ErrUntrusted, or because the broker did not
// answer; the sequence is that of the stored message, and 0 when there is none.
func (s *session) manifest(ctx context.Context, trusted []string) (sequence uint64, manifest wire.Manifest, err error) {
	msg, err := s.get(ctx, wire.DeviceKey(s.Device))
	if err != nil {
		return 0, wire.Manifest{}, err
	}
	sequence, err = strconv.ParseUint(msg.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return 0, wire.Manifest{}, fmt.Errorf("reading the manifest: sequence: %w", err)
	}
	signed, err := wire.DecodeSignedManifest(msg.Data)
	if err == nil {
		err = signed.Verify(s.Device, trusted)
	}
	return sequence, signed.Manifest, err
}

// compare builds the desired state of a manifest from what is held, and names
// what has to be read to complete it.
func compare(manifest wire.Manifest, held store.Desired) (next store.Desired, missing []wire.DeploymentID) {
	next = store.Desired{
		Generation:  manifest.Generation,
		Deployments: make(map[wire.DeploymentID]store.Workload, len(manifest.Deployments)),
	}
	for token, entry := range manifest.Deployments {
		id, err := wire.ParseDeploymentToken(token)
		if err != nil {
			continue // DecodeManifest lets none through
		}
		workload := store.Workload{Revision: entry.Revision, Digest: entry.Digest}
		if have, ok := held.Deployments[id]; ok && have.Digest == entry.Digest {
			workload.Score = have.Score
		} else {
			missing = append(missing, id)
		}
		next.Deployments[id] = workload
	}
	return next, missing
}

// fetch reads the scores of missing into next. A score with another digest than
// the manifest names belongs to another write, before or after: the manifest is
// to be read again then.
func (s *session) fetch(ctx context.Context, next store.Desired, missing []wire.DeploymentID) error {
	var mu sync.Mutex
	return each(missing, func(id wire.DeploymentID) error {
		msg, err := s.get(ctx, wire.DeploymentKey(s.Device, id))
		if err != nil {
			return fmt.Errorf("generation %d: score of %s: %w", next.Generation, id, err)
		}
		mu.Lock()
		defer mu.Unlock()
		workload := next.Deployments[id]
		if digest := score.DigestOf(msg.Data); digest != workload.Digest {
			return fmt.Errorf("generation %d: score of %s: digest is %s and the manifest names %s",
				next.Generation, id, digest.Short(), workload.Digest.Short())
		}
		workload.Score = msg.Data
		next.Deployments[id] = workload
		return nil
	})
}

// get reads one key of the desired state. It fails with errNoKey when the key
// was never written or is deleted.
func (s *session) get(ctx context.Context, key string) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timing.request)
	defer cancel()
	msg, err := s.nc.RequestWithContext(ctx, wire.DesiredState.DirectGet(key), nil)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", key, unanswered(err))
	}
	operations := []string{wire.OperationDelete, wire.OperationPurge}
	switch status := msg.Header.Get("Status"); {
	case status == "404", slices.Contains(operations, msg.Header.Get(wire.HeaderOperation)):
		return nil, fmt.Errorf("reading %q: %w", key, errNoKey)
	case status != "":
		return nil, fmt.Errorf("reading %q: %s %s", key, status, msg.Header.Get("Description"))
	case msg.Header.Get("Nats-Subject") != wire.DesiredState.Subject(key):
		return nil, fmt.Errorf("reading %q: the answer is of another key: %v", key, slices.Sorted(maps.Keys(msg.Header)))
	}
	return msg, nil
}
