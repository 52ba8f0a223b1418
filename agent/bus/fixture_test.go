package bus

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// workloads remembers what was applied.
type workloads struct {
	mu      sync.Mutex
	held    store.Desired
	applied int
	refuse  error
}

func (w *workloads) Desired() store.Desired {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.held
}

func (w *workloads) Apply(d store.Desired) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse != nil {
		return w.refuse
	}
	w.held = d
	w.applied++
	return nil
}

func (w *workloads) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.applied
}

// logbook keeps log lines and shows them in the test's output.
type logbook struct {
	mu    sync.Mutex
	lines []string
}

func (l *logbook) logger(t *testing.T) logr.Logger {
	over := false // with mu: a test that ended takes no more lines
	t.Cleanup(func() { l.mu.Lock(); defer l.mu.Unlock(); over = true })
	return funcr.New(func(_, args string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lines = append(l.lines, args)
		if !over {
			t.Log(args)
		}
	}, funcr.Options{Verbosity: 1})
}

// having counts the lines that contain all of the words.
func (l *logbook) having(words ...string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
next:
	for _, line := range l.lines {
		for _, word := range words {
			if !strings.Contains(line, word) {
				continue next
			}
		}
		n++
	}
	return n
}

// fleet is a broker with one agent's bus and a person with the operator's
// rights.
type fleet struct {
	*testing.T
	broker   *broker.Broker
	operator *nats.Conn
}

func newFleet(t *testing.T, devices ...wire.DeviceID) *fleet {
	t.Helper()
	return newFleetOf(t, broker.Options{Devices: devices})
}

func newFleetOf(t *testing.T, options broker.Options) *fleet {
	t.Helper()
	b, err := broker.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return &fleet{T: t, broker: b, operator: connect(t, b.URL(), b.Operator())}
}

func connect(t *testing.T, url string, as v1alpha1.Credentials) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, nats.UserInfo(as.User, as.Password), nats.Timeout(patience),
		nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatalf("connecting as %q: %v", as.User, err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// agent is a running Bus with what it applied and logged.
type agent struct {
	*Bus
	workloads *workloads
	log       *logbook
	stop      func()
}

func (f *fleet) options(id wire.DeviceID) Options {
	return Options{
		Target:     Target{Device: id, NATS: f.broker.NATS(), Credentials: f.broker.Device(id), TrustedKeys: f.broker.TrustedKeys()},
		Session:    "0123abcd",
		Workloads:  &workloads{},
		Connection: func(string, error) {},
		Refused:    func(error) {},
		Twin:       func(error) {},
		Now:        time.Now,
	}
}

// run starts a bus whose waits are short.
func (f *fleet) run(options Options, adjust ...func(*timing)) *agent {
	f.Helper()
	a := &agent{log: &logbook{}, workloads: options.Workloads.(*workloads)}
	options.Log = a.log.logger(f.T)
	a.Bus = New(options)
	a.timing = timing{
		heartbeat: 50 * time.Millisecond, settle: 20 * time.Millisecond,
		reconnect: 20 * time.Millisecond, reconnectMax: 50 * time.Millisecond,
		reassert: 20 * time.Millisecond, audit: time.Hour, hint: time.Millisecond,
		retry: 20 * time.Millisecond, retryMax: 50 * time.Millisecond, request: 2 * time.Second,
	}
	for _, change := range adjust {
		change(&a.timing)
	}
	ctx, cancel := context.WithCancel(f.Context())
	var running sync.WaitGroup
	running.Go(func() { a.Run(ctx) })
	a.stop = func() { cancel(); running.Wait() }
	f.Cleanup(a.stop)
	return a
}

// patience is for a machine that is busy: what is waited for takes a moment.
const patience = 2 * time.Minute

// eventually waits until what holds.
func (f *fleet) eventually(what string, holds func() bool) {
	f.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			f.Fatalf("not in %s: %s", patience, what)
		}
	}
}

// write stores desired-state keys of a device in one atomic batch, as the
// operator does. The manifest goes last.
func (f *fleet) write(id wire.DeviceID, generation uint64, scores map[wire.DeploymentID]string) {
	f.Helper()
	entries := map[string]wire.ManifestEntry{}
	var keys, values []string
	for dep, text := range scores {
		entries[dep.Token()] = wire.ManifestEntry{Revision: 1, Digest: score.DigestOf([]byte(text))}
		keys, values = append(keys, wire.DeploymentKey(id, dep)), append(values, text)
	}
	encoded, err := f.broker.Manifest(id, generation, entries)
	if err != nil {
		f.Fatal(err)
	}
	f.batch(append(keys, wire.DeviceKey(id)), append(values, string(encoded)))
}

// forge stores generation 9 for a device, changed after it was signed.
func (f *fleet) forge(id wire.DeviceID, change func(string) string) {
	f.Helper()
	signed, err := f.broker.Manifest(id, 9, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.put(wire.DeviceKey(id), change(string(signed)))
}

func (f *fleet) batch(keys, values []string) {
	f.Helper()
	batch := rand.Text()
	for i, key := range keys {
		msg := nats.NewMsg(wire.DesiredState.Subject(key))
		msg.Data = []byte(values[i])
		msg.Header.Set("Nats-Batch-Id", batch)
		msg.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		if i < len(keys)-1 {
			if err := f.operator.PublishMsg(msg); err != nil {
				f.Fatal(err)
			}
			continue
		}
		msg.Header.Set("Nats-Batch-Commit", "1")
		f.request(msg)
	}
}

// put stores one desired-state key alone.
func (f *fleet) put(key, value string) {
	f.Helper()
	f.request(&nats.Msg{Subject: wire.DesiredState.Subject(key), Data: []byte(value)})
}

func (f *fleet) request(msg *nats.Msg) {
	f.Helper()
	ack, err := f.operator.RequestMsg(msg, 5*time.Second)
	if err != nil || strings.Contains(string(ack.Data), `"error"`) {
		f.Fatalf("writing %q: %v, %s", msg.Subject, err, ack.Data)
	}
}

// stored is the last message of a key; nil when there is none.
func (f *fleet) stored(bucket wire.Bucket, key string) *nats.Msg {
	f.Helper()
	msg, err := f.operator.Request(bucket.DirectGet(key), nil, 5*time.Second)
	if err != nil || msg.Header.Get("Status") != "" {
		return nil
	}
	return msg
}

func dep(name string) wire.DeploymentID { return wire.DeploymentID{Namespace: "default", Name: name} }

func state(message string) *wire.DeviceState {
	return &wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running", Message: message, Digest: score.DigestOf(nil)}
}

// scores are contents whose bytes need not be a score: the bus looks at digests.
func scores(n int) map[wire.DeploymentID]string {
	all := map[wire.DeploymentID]string{}
	for i := range n {
		all[dep(fmt.Sprintf("web-%d", i))] = fmt.Sprintf("score %d", i)
	}
	return all
}
