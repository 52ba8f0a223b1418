package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	// bufferBytes bounds what lies unread in this process per bucket. Bytes and
	// not messages: a score may have some hundred kilobytes.
	bufferBytes = 16 << 20
	// A consumer that the broker lost is noticed after two heartbeats, and one
	// that nobody reads is removed by the broker after inactiveThreshold.
	pullExpiry, heartbeat = 10 * time.Second, 2 * time.Second
	inactiveThreshold     = time.Minute
	// checkInterval is how often an unfinished replay is asked whether anything
	// is left: what was purged meanwhile never comes.
	checkInterval = time.Second
)

// reader is where the reading of one bucket is, through one consumer after the
// other.
type reader struct {
	bucket   wire.Bucket
	filter   string // subject filter; "" means all of the bucket
	follower Follower
	// The stream that it reads, the last sequence that the stream had when the
	// consumer was created, and the sequence of the last entry handed over.
	created  time.Time
	last     uint64
	sequence uint64
	caughtUp bool
}

// read reads through one consumer until that fails or ctx ends.
func (c *Conn) read(ctx context.Context, r *reader) error {
	ctx, cancel := c.whileConnected(ctx)
	defer cancel()
	explain := c.explainer()
	consumer, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer c.remove(ctx, r, consumer)
	s := begin(r, consumer.CachedInfo().NumPending)
	consuming, err := consumer.Consume(s.handle, jetstream.PullMaxBytes(bufferBytes), jetstream.PullExpiry(pullExpiry),
		jetstream.PullHeartbeat(heartbeat), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { s.fail(err) }))
	if err != nil {
		return fmt.Errorf("reading the consumer: %w", err)
	}
	defer consuming.Stop()
	defer s.end()
	ticker := time.NewTicker(checkInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return explain(ctx, ctx.Err())
		case err := <-s.failed:
			return explain(ctx, fmt.Errorf("reading the consumer: %w", err))
		case <-ticker.C:
			if err := c.checkReplay(ctx, s, consumer); err != nil {
				return err
			}
		}
	}
}

// open creates the consumer: where the reader is, or at the start when the
// stream is not what it was.
func (c *Conn) open(ctx context.Context, r *reader) (jetstream.Consumer, error) {
	before, err := c.State(ctx, r.bucket)
	if err != nil {
		return nil, err
	}
	config := jetstream.ConsumerConfig{
		FilterSubject: r.filter,
		// A stream keeps the last message of each subject and no other, so that
		// all of it is the last values; and the broker need not look for them.
		DeliverPolicy:     jetstream.DeliverAllPolicy,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: inactiveThreshold,
	}
	resume := before.Created.Equal(r.created) && before.LastSequence >= r.sequence
	if resume {
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, r.sequence+1
	}
	var consumer jetstream.Consumer
	err = c.request(ctx, fmt.Sprintf("creating a consumer of stream %q", r.bucket.Stream()), func(ctx context.Context) error {
		consumer, err = c.js.CreateConsumer(ctx, r.bucket.Stream(), config)
		return err
	})
	if err != nil {
		return nil, err
	}
	after, err := c.State(ctx, r.bucket)
	if err != nil {
		return nil, err
	}
	if !after.Created.Equal(before.Created) {
		return nil, fmt.Errorf("stream %q was created anew meanwhile", r.bucket.Stream())
	}
	if !resume {
		r.created, r.sequence, r.caughtUp = before.Created, 0, false
		r.follower.Reset()
	}
	r.last = before.LastSequence
	return consumer, nil
}

// remove removes the consumer, if that can be done; the broker does it later.
func (c *Conn) remove(ctx context.Context, r *reader, consumer jetstream.Consumer) {
	if !c.Connected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := c.js.DeleteConsumer(ctx, r.bucket.Stream(), consumer.CachedInfo().Name); err != nil {
		c.options.Log.V(1).Info("left a consumer to the broker to remove", "bucket", r.bucket.Name, "error", err.Error())
	}
}

// session is the reading through one consumer.
type session struct {
	*reader
	mu      sync.Mutex // held while the follower is called; guards what is below, and the reader
	ended   bool
	handled uint64 // messages of this consumer
	replay  uint64 // messages that it had to deliver when it was created
	failed  chan error
}

func begin(r *reader, pending uint64) *session {
	s := &session{reader: r, replay: pending, failed: make(chan error, 1)}
	s.noteReplay()
	return s
}

// end returns when the follower is not called any more.
func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
}

// noteReplay tells when the replay is over: messages come in the order in which
// they were stored, so that after as many as there were, those that were there
// have come, or have been replaced.
func (s *session) noteReplay() {
	if !s.caughtUp && s.handled >= s.replay {
		s.caughtUp = true
		s.follower.CaughtUp()
	}
}

// replaying tells whether the replay is unfinished.
func (s *session) replaying() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.caughtUp
}

// checkReplay ends a replay of which nothing is left although not everything
// came.
func (c *Conn) checkReplay(ctx context.Context, s *session, consumer jetstream.Consumer) error {
	if !s.replaying() {
		return nil
	}
	return c.request(ctx, "asking how much of the replay is left", func(ctx context.Context) error {
		info, err := consumer.Info(ctx)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if info.NumPending == 0 && info.Delivered.Consumer == s.handled && !s.ended {
			s.replay = s.handled
			s.noteReplay()
		}
		return nil
	})
}

// fail ends the session with the first of its failures.
func (s *session) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

var errGap = errors.New("messages were lost on the way")

func (s *session) handle(msg jetstream.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	meta, err := msg.Metadata()
	if err == nil && meta.Sequence.Consumer != s.handled+1 {
		err = errGap
	}
	key, ok := s.bucket.Key(msg.Subject())
	if !ok && err == nil {
		err = fmt.Errorf("subject %q is not of bucket %q", msg.Subject(), s.bucket.Name)
	}
	if err != nil {
		s.ended = true // what comes now must not be handed over before what is missing
		s.fail(err)
		return
	}
	s.handled++
	s.sequence = meta.Sequence.Stream
	s.follower.Entry(Entry{
		Key:      key,
		Value:    msg.Data(),
		Deleted:  deleted(msg.Headers()),
		Sequence: meta.Sequence.Stream,
		At:       meta.Timestamp,
	})
	s.noteReplay()
}

func deleted(header nats.Header) bool {
	operation := header.Get(wire.HeaderOperation)
	return operation == wire.OperationDelete || operation == wire.OperationPurge
}
