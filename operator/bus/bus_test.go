package bus_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testBroker is what the tests need of either kind of broker.
type testBroker interface {
	URL() string
	NATS() v1alpha1.NATSSection
	Operator() v1alpha1.Credentials
	Provisioner() v1alpha1.Credentials
	Device(wire.DeviceID) v1alpha1.Credentials
	Restart(context.Context) error
}

func startBroker(t testing.TB, options broker.Options) *broker.Broker {
	t.Helper()
	b, err := broker.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return b
}

func startProcess(t testing.TB, options broker.Options) *broker.Process {
	t.Helper()
	b, err := broker.StartProcess(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return b
}

func logger(t testing.TB) logr.Logger {
	return funcr.New(func(prefix, args string) {
		if t.Context().Err() == nil { // the test has not ended
			t.Log(prefix, args)
		}
	}, funcr.Options{Verbosity: 1})
}

func connect(t testing.TB, b testBroker) *bus.Conn {
	t.Helper()
	conn, err := bus.Connect(t.Context(), bus.Options{NATS: b.NATS(), Credentials: b.Operator(), Name: t.Name(), Log: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// raw is a plain NATS connection that may do everything in the streams' account.
func raw(t testing.TB, b testBroker) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	as := b.Provisioner()
	nc, err := nats.Connect(b.URL(), nats.UserInfo(as.User, as.Password), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// put stores values as any writer would.
func put(t testing.TB, js jetstream.JetStream, b wire.Bucket, pairs ...string) {
	t.Helper()
	for pair := range slices.Chunk(pairs, 2) {
		if _, err := js.Publish(t.Context(), b.Subject(pair[0]), []byte(pair[1])); err != nil {
			t.Fatalf("putting %q: %v", pair[0], err)
		}
	}
}

// recorder is a Follower that remembers the calls.
type recorder struct {
	mu       sync.Mutex
	calls    []string          // "reset", "caught up", and "key=value", "key deleted"
	values   map[string]string // since the last reset
	resets   int
	caughtUp int
	changed  chan struct{}
}

func newRecorder() *recorder { return &recorder{changed: make(chan struct{}, 1)} }

func (r *recorder) Reset() {
	r.note("reset", func() { r.values, r.resets = map[string]string{}, r.resets+1 })
}

func (r *recorder) CaughtUp() { r.note("caught up", func() { r.caughtUp++ }) }

func (r *recorder) Entry(e bus.Entry) {
	if e.Deleted {
		r.note(e.Key+" deleted", func() { delete(r.values, e.Key) })
		return
	}
	value := string(e.Value)
	r.note(e.Key+"="+value, func() { r.values[e.Key] = value })
}

func (r *recorder) note(call string, change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, call)
	change()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// wait waits until the condition holds, which sees the recorder locked.
func (r *recorder) wait(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		r.mu.Lock()
		ok := condition()
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-r.changed:
		case <-deadline:
			t.Fatalf("waited 30s for %s; last calls: %q", what, r.calls[max(0, len(r.calls)-10):])
		}
	}
}

// follow follows until the test ends.
func follow(t testing.TB, conn *bus.Conn, b wire.Bucket) *recorder {
	t.Helper()
	r := newRecorder()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- conn.Follow(ctx, b, r) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Follow() = %v, want the error of its context", err)
		}
	})
	return r
}
