// Package bus is the agent's side of NATS, and the only package of the agent
// that imports its client. It keeps one connection, reads the device's desired
// state and hands it on once it is verified, writes what the device has to say
// until the broker has acknowledged it, sends heartbeats, and answers commands.
//
// It decides nothing about workloads, and an answer that is missing, malformed
// or old never makes it hand on less than what is held already.
package bus

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/nats-io/nats.go"

	"github.com/nationtech/harmony-fleet/agent/backoff"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/agent/twin"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Workloads is where the desired state goes.
type Workloads interface {
	// Desired is what is held.
	Desired() store.Desired
	// Apply replaces it, and returns once that survives a power cut.
	Apply(store.Desired) error
}

// Handler answers one command. An error becomes a CommandError of the reply;
// a *wire.CommandError keeps its reason.
type Handler func(ctx context.Context, request []byte) (reply []byte, err error)

// Target says which broker to connect to and as which device.
type Target struct {
	Device      wire.DeviceID
	NATS        v1alpha1.NATSSection
	Credentials v1alpha1.Credentials
	// TrustedKeys are the keys of the configuration whose signature counts, until
	// a manifest names others.
	TrustedKeys []string
	// Tokens are where a login gets its token from; nil unless the Credentials are
	// FromProvider.
	Tokens Tokens
}

// Tokens gives out what proves to the broker which device this is.
type Tokens interface {
	// Token to log in with now.
	Token(context.Context) (string, error)
	// Renewed waits, after a login with a token, until there is a fresher one; it
	// is false when ctx ended first.
	Renewed(ctx context.Context, than string) bool
	// Refused tells that the broker did not take the token.
	Refused(token string)
}

// Options of a Bus; all are needed.
type Options struct {
	Target
	// Session of this process, as in its heartbeats.
	Session   string
	Workloads Workloads
	Commands  map[wire.Verb]Handler
	// Connection is told of each change: the broker's address when connected,
	// and else the problem. It must not block.
	Connection func(server string, problem error)
	// Refused is told why what the broker offers is not taken over, and nil when
	// it is. It must not block.
	Refused func(problem error)
	// Twin is told of each change: who else is live with this device id and what
	// to do about it, and nil when nobody is. It must not block.
	Twin func(problem error)
	// Now is the time.
	Now func() time.Time
	Log logr.Logger
}

// Bus is the connection to the broker and what has to be said over it.
type Bus struct {
	Options
	timing timing
	outbox outbox
	twins  twins // only Run's goroutine and the beat of its connection use it
	// problem is the last one logged and connections how many there were; only
	// Run's goroutine uses them.
	problem     string
	connections int
	// renewing is why the last connection ended as it was meant to; "" when it
	// failed.
	renewing string
}

// timing is what tests shorten.
type timing struct {
	// heartbeat is sent once per interval, plus or minus a tenth.
	heartbeat time.Duration
	// settle is how long another agent with this device id has to answer before
	// this one reports.
	settle time.Duration
	// calm is waited before each new connection: a broker that was started anew,
	// and its callout, are to be there first. reconnect bounds what is waited
	// besides for the first one and reconnectMax for later ones; each is drawn
	// between 0 and its bound, so that a fleet that lost its broker does not come
	// back in step. A login that takes more than 2 s is work lost for both sides:
	// the client library fails on the PING that the broker sends then.
	calm, reconnect, reconnectMax time.Duration
	// reassert bounds the wait after a reconnect until all states are written
	// once more: when a fleet comes back the logins of others go before that.
	reassert time.Duration
	// audit is the shortest time between two reads of the manifest that nothing
	// asked for; the longest is three times that.
	audit time.Duration
	// hint bounds the wait between a hint and the read that it causes: one
	// change of a Deployment wakes every device that it matches.
	hint time.Duration
	// retry is the first wait after a failed read or write, doubled up to
	// retryMax.
	retry, retryMax time.Duration
	// request bounds one request to the broker.
	request time.Duration
}

// stable is how long a connection must have lasted for the next loss of it to
// count as the first.
const stable = time.Minute

// New returns a Bus that connects when it is run.
func New(options Options) *Bus {
	return &Bus{
		Options: options,
		outbox:  newOutbox(),
		timing: timing{
			heartbeat: wire.HeartbeatInterval,
			settle:    twin.Settle,
			calm:      time.Second,
			reconnect: 5 * time.Second, reconnectMax: 30 * time.Second,
			reassert: 30 * time.Second,
			audit:    5 * time.Minute,
			hint:     50 * time.Millisecond,
			retry:    200 * time.Millisecond, retryMax: time.Minute,
			request: 10 * time.Second,
		},
	}
}

// PutInfo writes what the device is, as soon as the broker can be reached.
func (b *Bus) PutInfo(info wire.DeviceInfo) error {
	payload, err := info.Encode()
	if err != nil {
		return err
	}
	b.outbox.put(wire.DeviceInfos.Subject(wire.DeviceKey(b.Device)), payload)
	return nil
}

// PutState writes how a Deployment does, as soon as the broker can be reached;
// nil says that nothing of it is left here. Of several states of one Deployment
// the last one is written.
func (b *Bus) PutState(deployment wire.DeploymentID, state *wire.DeviceState) error {
	subject := wire.DeviceStates.Subject(wire.DeploymentKey(b.Device, deployment))
	if state == nil {
		b.outbox.put(subject, nil)
		return nil
	}
	payload, err := state.Encode()
	if err != nil {
		return err
	}
	b.outbox.put(subject, payload)
	return nil
}

// Run keeps a connection until ctx ends. It returns nothing before that: what
// fails is logged once, told to Connection, and tried again for ever.
func (b *Bus) Run(ctx context.Context) {
	b.twins.watch = twin.New(b.Session, b.timing.settle)
	for attempt := 0; ; attempt++ {
		started := time.Now()
		err := b.connection(ctx)
		if ctx.Err() != nil {
			return
		}
		if b.renewing = renewal(err, time.Since(started)); b.renewing != "" {
			attempt = -1
			continue // at once, and nobody need hear of it
		}
		if time.Since(started) > stable {
			attempt = 0
		}
		delay := b.timing.calm + backoff.FullJitter(attempt, b.timing.reconnect, b.timing.reconnectMax)
		b.Connection("", err)
		if problem := err.Error(); problem != b.problem {
			b.problem = problem
			b.Log.Error(err, "broker is not reachable, trying again until it is", "next", delay)
		}
		if !backoff.Sleep(ctx, delay) {
			return
		}
	}
}

// connection is one connection from its start to its end, which is an error
// unless ctx ended it.
func (b *Bus) connection(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	end := newEnding()
	token, nc, err := dial(ctx, b.Target,
		nats.ErrorHandler(func(nc *nats.Conn, of *nats.Subscription, err error) { end.hear(err); b.asyncError(nc, of, err) }),
		nats.ClosedHandler(func(nc *nats.Conn) { end.closed(nc.LastError()) }))
	if err != nil {
		return err
	}
	defer nc.Close()
	b.connections++
	s := &session{
		Bus: b, nc: nc, number: b.connections,
		// A hint that finds the channel full changes nothing: the ones before it
		// cause a read already.
		hints:      make(chan *nats.Msg, 8),
		commands:   make(chan *nats.Msg, 2*maxCommands),
		heartbeats: make(chan *nats.Msg, 64),
	}
	if err := s.subscribe(); err != nil {
		return explain(b.Target, err)
	}
	b.Connection(nc.ConnectedUrlRedacted(), nil)
	b.problem = ""
	if b.renewing != "" {
		b.Log.Info("connection to the broker renewed", "reason", b.renewing)
	} else {
		b.Log.Info("connected to the broker", "url", nc.ConnectedUrlRedacted(), "version", nc.ConnectedServerVersion())
	}

	// Before anything is written: another may have taken over meanwhile.
	b.twins.watch.Listen(b.Now())
	s.judge(b.Now())
	var work sync.WaitGroup
	work.Go(func() { s.beat(ctx) })
	work.Go(func() { s.follow(ctx) })
	work.Go(func() { s.deliver(ctx) })
	work.Go(func() { s.answer(ctx, &work) })
	if b.Tokens != nil {
		work.Go(func() {
			if b.Tokens.Renewed(ctx, token) {
				end.closed(errRenewed)
			}
		})
	}
	select {
	case <-ctx.Done():
	case err = <-end.reason:
		err = explain(b.Target, lost(err))
	}
	cancel()
	work.Wait()
	return err
}

// session is one connection and what arrives over it.
type session struct {
	*Bus
	nc *nats.Conn
	// number of this connection, from 1.
	number     int
	hints      chan *nats.Msg
	commands   chan *nats.Msg
	heartbeats chan *nats.Msg
}

// subscribe listens before anything is read, so that no change falls between.
func (s *session) subscribe() error {
	for subject, messages := range s.subscriptions() {
		if _, err := s.nc.ChanSubscribe(subject, messages); err != nil {
			return fmt.Errorf("subscribing to %q: %w", subject, err)
		}
	}
	if err := s.nc.FlushTimeout(s.timing.request); err != nil {
		return fmt.Errorf("subscribing: %w", err)
	}
	return nil
}

// subscriptions are all that a device listens to. Hints are those of the
// manifest alone: it is written with every other key, and names them all.
func (s *session) subscriptions() map[string]chan *nats.Msg {
	key := wire.DeviceKey(s.Device)
	return map[string]chan *nats.Msg{
		wire.DesiredHint(key):          s.hints,
		wire.CommandSubjects(s.Device): s.commands,
		wire.HeartbeatHint(key):        s.heartbeats,
	}
}
