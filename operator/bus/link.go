package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// link is whether there is a connection, as two channels of which one is closed.
type link struct {
	mu       sync.Mutex
	up, down chan struct{} // replaced with mu
}

func newLink() *link {
	down := make(chan struct{})
	close(down)
	return &link{up: make(chan struct{}), down: down}
}

func (l *link) set(connected bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if connected {
		close(l.up)
		l.down = make(chan struct{})
	} else {
		close(l.down)
		l.up = make(chan struct{})
	}
}

// channels are closed when there is a connection, and when there is none.
func (l *link) channels() (up, down <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.up, l.down
}

func (l *link) connected() bool {
	up, _ := l.channels()
	select {
	case <-up:
		return true
	default:
		return false
	}
}

// whileConnected is ctx until the connection is lost, then with the cause
// ErrDisconnected.
func (c *Conn) whileConnected(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	_, down := c.link.channels()
	select {
	case <-down:
		cancel(ErrDisconnected)
	default:
		go func() {
			select {
			case <-down:
				cancel(ErrDisconnected)
			case <-ctx.Done():
			}
		}()
	}
	return ctx, func() { cancel(nil) }
}

// request runs one exchange with the broker: it ends with the connection and
// after requestTimeout, and its error says what was wanted and why it failed.
func (c *Conn) request(ctx context.Context, wanted string, exchange func(context.Context) error) error {
	ctx, cancel := c.whileConnected(ctx)
	defer cancel()
	ctx, cancelTimeout := context.WithTimeout(ctx, requestTimeout)
	defer cancelTimeout()
	explain := c.explainer()
	if err := exchange(ctx); err != nil {
		return fmt.Errorf("%s: %w", wanted, explain(ctx, err))
	}
	return nil
}

// explainer returns what turns the error of something that begins now into its
// reason: a lost connection, or a refusal by the broker, which answers nothing.
func (c *Conn) explainer() func(context.Context, error) error {
	before := c.refused.Load()
	return func(ctx context.Context, err error) error {
		if errors.Is(context.Cause(ctx), ErrDisconnected) {
			return ErrDisconnected
		}
		if after := c.refused.Load(); after != before {
			return fmt.Errorf("%w: %w: give the user %q this permission", err, after.err, c.options.Credentials.User)
		}
		return err
	}
}

// sleep waits, unless ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
