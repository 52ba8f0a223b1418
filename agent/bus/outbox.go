package bus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nationtech/harmony-fleet/agent/backoff"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// inFlight bounds the writes, and the reads, that wait for the broker at a time.
const inFlight = 8

// outbox holds the last value of each subject that the device writes, and which
// of them the broker has not acknowledged.
type outbox struct {
	mu     sync.Mutex
	values map[string]*outgoing // with mu
	// held says that nothing is to be sent for now; with mu.
	held bool
	// wake has room for one: that something became due.
	wake chan struct{}
}

// outgoing is the last value of one subject; a nil payload deletes the key.
type outgoing struct {
	payload []byte
	unsent  bool
	// over is the number of the connection over which it was acknowledged.
	over     int
	failures int
	due      time.Time
}

// letter is one value on its way.
type letter struct {
	subject string
	payload []byte
}

// newOutbox is one that is held.
func newOutbox() outbox {
	return outbox{values: map[string]*outgoing{}, held: true, wake: make(chan struct{}, 1)}
}

// put makes payload the value of the subject. A value that is there already is
// not sent again.
func (o *outbox) put(subject string, payload []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if last := o.values[subject]; last != nil && same(last.payload, payload) {
		return
	}
	o.values[subject] = &outgoing{payload: payload, unsent: true}
	o.signal()
}

// reassert makes unsent what was acknowledged over an earlier connection: the
// broker may have lost it since. What failed is due at once.
func (o *outbox) reassert(connection int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, value := range o.values {
		if value.unsent || value.over < connection {
			value.unsent, value.failures, value.due = true, 0, time.Time{}
		}
	}
	o.signal()
}

// hold has nothing be due, or everything that is unsent.
func (o *outbox) hold(held bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.held = held; !held {
		o.signal()
	}
}

// due returns letters to send now, and else how long nothing will be due.
func (o *outbox) due(now time.Time) (letters []letter, wait time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	wait = time.Hour
	if o.held {
		return nil, wait
	}
	for subject, value := range o.values {
		switch early := value.due.Sub(now); {
		case !value.unsent:
		case early > 0:
			wait = min(wait, early)
		case len(letters) < inFlight:
			letters = append(letters, letter{subject, value.payload})
		}
	}
	return letters, wait
}

// sent records an acknowledgement. An acknowledged deletion is forgotten: the
// broker has nothing left of the key that could have to be repaired.
func (o *outbox) sent(l letter, connection int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	value := o.values[l.subject]
	if value == nil || !same(value.payload, l.payload) {
		return // replaced meanwhile
	}
	value.unsent, value.over, value.failures = false, connection, 0
	if value.payload == nil {
		delete(o.values, l.subject)
	}
}

// failed postpones a value and returns how often it failed in a row.
func (o *outbox) failed(l letter, next func(failures int) time.Time) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	value := o.values[l.subject]
	if value == nil || !same(value.payload, l.payload) {
		return 0
	}
	value.due = next(value.failures)
	value.failures++
	return value.failures
}

// signal must be called with mu held.
func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// same tells a deletion from an empty value.
func same(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

// deliver writes what is unsent, and a little after a reconnect everything once
// more.
func (s *session) deliver(ctx context.Context) {
	reassert := time.AfterFunc(rand.N(s.timing.reassert), func() { s.outbox.reassert(s.number) })
	defer reassert.Stop()
	for ctx.Err() == nil {
		letters, wait := s.outbox.due(time.Now())
		if len(letters) > 0 {
			_ = each(letters, func(l letter) error { s.send(ctx, l); return nil })
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-s.outbox.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// send writes one value and records what came of it.
func (s *session) send(ctx context.Context, l letter) {
	err := s.put(ctx, l)
	if err == nil {
		s.outbox.sent(l, s.number)
		return
	}
	if ctx.Err() != nil {
		return // the connection ended: the value stays unsent
	}
	failures := s.outbox.failed(l, func(failures int) time.Time {
		return time.Now().Add(s.timing.retry + backoff.FullJitter(failures, s.timing.retry, s.timing.retryMax))
	})
	if failures == 1 {
		s.Log.Error(err, "broker did not take a value, trying again until it does", "subject", l.subject)
	}
}

// put writes one value and waits for the acknowledgement of its stream.
func (s *session) put(ctx context.Context, l letter) error {
	ctx, cancel := context.WithTimeout(ctx, s.timing.request)
	defer cancel()
	msg := &nats.Msg{Subject: l.subject, Data: l.payload}
	if l.payload == nil {
		msg.Header = nats.Header{wire.HeaderOperation: {wire.OperationDelete}}
	}
	answer, err := s.nc.RequestMsgWithContext(ctx, msg)
	if err != nil {
		return fmt.Errorf("writing %q: %w", l.subject, unanswered(err))
	}
	var ack struct {
		Stream string
		Error  *struct {
			Description string
		}
	}
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return fmt.Errorf("writing %q: reading the acknowledgement: %w", l.subject, err)
	}
	if ack.Error != nil {
		return fmt.Errorf("writing %q: %s", l.subject, ack.Error.Description)
	}
	if ack.Stream == "" {
		return fmt.Errorf("writing %q: the acknowledgement names no stream", l.subject)
	}
	return nil
}

// unanswered explains the errors of a request.
func unanswered(err error) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("the broker has no such bucket: %w", err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer in time; a request that is not permitted ends so too: %w", err)
	}
	return err
}

// each calls do for every item, a few at a time, and returns the first error.
func each[T any](items []T, do func(T) error) error {
	var (
		work  sync.WaitGroup
		slots = make(chan struct{}, inFlight)
		once  sync.Once
		first error
	)
	for _, item := range items {
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			if err := do(item); err != nil {
				once.Do(func() { first = err })
			}
		})
	}
	work.Wait()
	return first
}
