package bus

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	// MaxUnit is how many messages one unit may have: the server's bound of an
	// atomic batch.
	MaxUnit = 1000
	// batchBytes bounds the values of a batch of several units, which the
	// server holds in memory until the batch is complete.
	batchBytes = 8 << 20
	// batchesInFlight is how many batches are sent before the first is
	// acknowledged; the server admits 50 per stream, of all writers.
	batchesInFlight = 8
	// ackTimeout bounds the wait for the next acknowledgement.
	ackTimeout = 10 * time.Second
	// markerTTL is how long a deletion marker stays: enough for who looks at
	// the bucket, and to be republished.
	markerTTL = time.Hour
	// headerBytes is more than the headers and the subject of a message take.
	headerBytes = 1 << 10
)

// Message is one write to the desired-state bucket.
type Message struct {
	Key string
	// Value to store; with Delete, the key gets a deletion marker that expires.
	Value  []byte
	Delete bool
}

// ErrTooLarge says that a unit has more than MaxUnit messages, or a message more
// bytes than the bucket takes. It can never be written.
var ErrTooLarge = errors.New("too large to be written")

// Write stores the units in the desired-state bucket, in order and each of them
// whole or not at all. It returns which units are stored for certain. Of the
// others, err says why; they may be stored nevertheless when the answer did not
// come, and writing them again does no harm.
func (c *Conn) Write(ctx context.Context, units [][]Message) (stored []bool, err error) {
	ctx, cancel := c.whileConnected(ctx)
	defer cancel()
	batches, tooLarge := pack(units)
	w := writer{conn: c, units: units, batches: batches, id: rand.Text(), inbox: c.nc.NewInbox(), stored: make([]bool, len(units))}
	for i, unit := range units {
		w.stored[i] = len(unit) == 0
	}
	explain := c.explainer()
	if err = w.run(ctx); err != nil {
		err = fmt.Errorf("writing desired state: %w", explain(ctx, err))
	}
	return w.stored, errors.Join(tooLarge, err)
}

// pack puts the units into batches, by their indices.
func pack(units [][]Message) (batches [][]int, tooLarge error) {
	var problems []error
	var batch []int
	messages, bytes := 0, 0
	for i, unit := range units {
		size, err := measure(unit)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if len(unit) == 0 {
			continue
		}
		if len(batch) > 0 && (messages+len(unit) > MaxUnit || bytes+size > batchBytes) {
			batches, batch, messages, bytes = append(batches, batch), nil, 0, 0
		}
		batch, messages, bytes = append(batch, i), messages+len(unit), bytes+size
	}
	if len(batch) > 0 {
		batches = append(batches, batch)
	}
	return batches, errors.Join(problems...)
}

// measure returns the bytes of a unit. It fails with ErrTooLarge.
func measure(unit []Message) (size int, err error) {
	if len(unit) > MaxUnit {
		return 0, fmt.Errorf("unit with key %q and %d others: %w: at most %d messages", unit[0].Key, len(unit)-1, ErrTooLarge, MaxUnit)
	}
	for _, m := range unit {
		if len(m.Value)+headerBytes > int(wire.DesiredState.MaxMessageSize) {
			return 0, fmt.Errorf("key %q: %w: %d bytes", m.Key, ErrTooLarge, len(m.Value))
		}
		size += len(m.Value) + headerBytes
	}
	return size, nil
}

// writer carries out one Write.
type writer struct {
	conn    *Conn
	units   [][]Message
	batches [][]int // indices of units
	id      string  // begins the id of each batch
	inbox   string  // begins the reply subject of each batch
	acks    *nats.Subscription
	stored  []bool // by unit
	refused []error
}

// run sends the batches and waits for the answers, a few batches later.
func (w *writer) run(ctx context.Context) (err error) {
	if w.acks, err = w.conn.nc.SubscribeSync(w.inbox + ".*"); err != nil {
		return err
	}
	defer func() { _ = w.acks.Unsubscribe() }() // fails only without a connection
	waiting := 0
	for i := range w.batches {
		if waiting == batchesInFlight {
			if err := w.await(ctx); err != nil {
				return errors.Join(append(w.refused, err)...)
			}
			waiting--
		}
		if err := w.send(i); err != nil {
			return errors.Join(append(w.refused, err)...)
		}
		waiting++
	}
	for ; waiting > 0; waiting-- {
		if err := w.await(ctx); err != nil {
			return errors.Join(append(w.refused, err)...)
		}
	}
	return errors.Join(w.refused...)
}

// Headers of an atomic batch.
const (
	headerBatchID       = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
)

// send sends one batch. The server answers the last message alone, for all.
func (w *writer) send(batch int) error {
	messages := w.messages(batch)
	for i, m := range messages {
		msg := &nats.Msg{Subject: wire.DesiredState.Subject(m.Key), Data: m.Value, Header: nats.Header{
			headerBatchID:       {w.batchID(batch)},
			headerBatchSequence: {strconv.Itoa(i + 1)},
		}}
		if m.Delete {
			msg.Data = nil
			msg.Header[wire.HeaderOperation] = []string{wire.OperationDelete}
			msg.Header[jetstream.MsgTTLHeader] = []string{markerTTL.String()}
		}
		if i == len(messages)-1 {
			msg.Header[headerBatchCommit] = []string{"1"}
			msg.Reply = w.inbox + "." + strconv.Itoa(batch)
		}
		if err := w.conn.nc.PublishMsg(msg); err != nil {
			return fmt.Errorf("key %q: %w", m.Key, err)
		}
	}
	return nil
}

func (w *writer) batchID(batch int) string { return w.id + "-" + strconv.Itoa(batch) }

func (w *writer) messages(batch int) []Message {
	units := make([][]Message, 0, len(w.batches[batch]))
	for _, unit := range w.batches[batch] {
		units = append(units, w.units[unit])
	}
	return slices.Concat(units...)
}

// await waits for the answer to any batch. It fails when none comes; a refusal
// is noted, and the other batches go on.
func (w *writer) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	answer, err := w.acks.NextMsgWithContext(ctx)
	if err != nil {
		return fmt.Errorf("waiting for the acknowledgement: %w", err)
	}
	batch, err := strconv.Atoi(answer.Subject[len(w.inbox)+1:])
	if err != nil {
		return fmt.Errorf("reading the subject of an acknowledgement: %w", err)
	}
	if err := w.check(batch, answer); err != nil {
		first := w.messages(batch)[0].Key
		w.refused = append(w.refused, fmt.Errorf("batch of %d units from key %q: %w", len(w.batches[batch]), first, err))
		return nil
	}
	for _, unit := range w.batches[batch] {
		w.stored[unit] = true
	}
	return nil
}

// batchIncomplete is the server's code for a batch of which it does not have every
// message. It says so also when it could not store one, and tells nobody why.
const batchIncomplete = 10176

func explainIncomplete(err error) error {
	var refusal *jetstream.APIError
	if errors.As(err, &refusal) && refusal.ErrorCode == batchIncomplete {
		return fmt.Errorf("the broker could not keep all of it; is its volume full? %w", err)
	}
	return err
}

// check makes sure that the answer speaks of the whole batch: a server that does
// not know batches would acknowledge the last message alone.
func (w *writer) check(batch int, answer *nats.Msg) error {
	if err := refusedBy(answer); err != nil {
		return explainIncomplete(err)
	}
	var ack struct {
		Batch string `json:"batch"`
		Count int    `json:"count"`
	}
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return fmt.Errorf("reading the acknowledgement: %w", err)
	}
	if want := len(w.messages(batch)); ack.Batch != w.batchID(batch) || ack.Count != want {
		return fmt.Errorf("the acknowledgement speaks of %d messages of batch %q, want %d of %q", ack.Count, ack.Batch, want, w.batchID(batch))
	}
	return nil
}
