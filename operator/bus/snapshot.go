package bus

import (
	"bytes"
	"context"
	"fmt"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Snapshot hands over the last value of each key once, deletion markers too. The
// state is that of the stream before, so that what was handed over may be newer.
// After an error, what was handed over is not the whole.
func (c *Conn) Snapshot(ctx context.Context, b wire.Bucket, each func(Entry)) (StreamState, error) {
	s := &snapshot{each: each}
	r := &reader{bucket: b, follower: s}
	err := c.readOnce(ctx, r, s)
	return StreamState{Created: r.created, LastSequence: r.last}, err
}

// List returns the values of the keys that match, without those that are
// deleted; in filter, "*" stands for one token of a key and ">" for the rest.
func (c *Conn) List(ctx context.Context, b wire.Bucket, filter string) ([]Entry, error) {
	var entries []Entry
	s := &snapshot{each: func(e Entry) {
		if !e.Deleted {
			e.Value = bytes.Clone(e.Value)
			entries = append(entries, e)
		}
	}}
	r := &reader{bucket: b, follower: s, filter: b.Subject(filter)}
	if err := c.readOnce(ctx, r, s); err != nil {
		return nil, err
	}
	return entries, nil
}

func (c *Conn) readOnce(ctx context.Context, r *reader, s *snapshot) error {
	ctx, s.stop = context.WithCancel(ctx)
	defer s.stop()
	if err := c.read(ctx, r); !s.done {
		return fmt.Errorf("reading bucket %q: %w", r.bucket.Name, err)
	}
	return nil
}

// snapshot is a Follower that ends with the replay.
type snapshot struct {
	each func(Entry)
	stop context.CancelFunc
	done bool
}

func (s *snapshot) Reset()    {}
func (s *snapshot) CaughtUp() { s.done = true; s.stop() }

func (s *snapshot) Entry(e Entry) {
	if !s.done {
		s.each(e)
	}
}
