package bus

import (
	"context"
	"errors"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Follower hears what a bucket holds. Its methods are called one at a time.
type Follower interface {
	// Reset says that what follows is a replay from the start, of a bucket that
	// may have nothing to do with what was heard before.
	Reset()
	// Entry is the last value of a key, now or once more.
	Entry(Entry)
	// CaughtUp says that all that was there at Reset has been heard. It follows
	// each Reset once, unless another Reset comes first.
	CaughtUp()
}

// Follow reads a bucket for as long as ctx lasts, and returns its error: first
// the last value of each key, then each change. It heals: after a lost
// connection or consumer it goes on where it was, and when the stream is younger
// or shorter than it was, it begins again with Reset.
func (c *Conn) Follow(ctx context.Context, b wire.Bucket, f Follower) error {
	r := &reader{bucket: b, follower: f}
	for attempt := 1; ; attempt++ {
		before := r.sequence
		err := c.read(ctx, r)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.sequence > before {
			attempt = 1
		}
		if !errors.Is(err, ErrDisconnected) { // the connection's own log line says that
			c.options.Log.Error(err, "following a bucket was interrupted, going on", "bucket", b.Name)
		}
		sleep(ctx, backoff(attempt, maxBackoff))
		up, _ := c.link.channels()
		select {
		case <-up:
		case <-ctx.Done():
		}
	}
}
