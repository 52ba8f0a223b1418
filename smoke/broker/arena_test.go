package broker_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/operator/callout"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

// The attacker's id is the beginning of the victim's.
const attacker, victim wire.DeviceID = "pi-4", "pi-42"

const secret = "the victim's secret"

// arena is a broker with an attacker, and a victim that listens.
type arena struct {
	*testing.T
	broker  *broker.Broker
	js      jetstream.JetStream // may do everything to the streams
	proofs  map[wire.DeviceID]proof
	options map[wire.DeviceID][]nats.Option
	ears    []*nats.Subscription // the victim's, and one of the staff's
	victim  *nats.Conn
	logged  func() string // by the callout; nil without one
	hush    func()        // ends the callout
}

// logins are the ways in which devices come in. Each attack is tried by both, for
// the permissions of one are written into a file, and those of the other into a
// token.
var logins = map[string]func(*testing.T, broker.Options) *arena{
	"by the broker's file": byFile,
	"through the callout":  byCallout,
}

func eachLogin(t *testing.T, options broker.Options, test func(*arena)) {
	for name, open := range logins {
		t.Run(name, func(t *testing.T) { test(open(t, options)) })
	}
}

func byFile(t *testing.T, options broker.Options) *arena {
	t.Helper()
	options.Devices = []wire.DeviceID{attacker, victim}
	a := newArena(t, options)
	for _, id := range options.Devices {
		as := a.broker.Device(id)
		a.proofs[id], a.options[id] = password(as), []nats.Option{nats.UserInfo(as.User, as.Password)}
	}
	return a.listen()
}

func byCallout(t *testing.T, options broker.Options) *arena {
	t.Helper()
	options.Callout = true
	a := newArena(t, options)
	known := policies{}
	for _, id := range []wire.DeviceID{attacker, victim} {
		pair, err := nkeys.CreateUser()
		a.must(err)
		public, err := pair.PublicKey()
		a.must(err)
		known[id] = policy.Policy{NKey: public}
		a.options[id] = []nats.Option{nats.UserInfo(string(id), ""), nats.Nkey(public, pair.Sign)}
		a.proofs[id] = a.keyProof(string(id), pair)
	}
	a.answer(known)
	return a.listen()
}

// keyProof is the login by a key of one's own.
func (a *arena) keyProof(user string, pair nkeys.KeyPair) proof {
	a.Helper()
	public, err := pair.PublicKey()
	a.must(err)
	return func(nonce string) map[string]any {
		signature, err := pair.Sign([]byte(nonce))
		a.must(err)
		return map[string]any{"user": user, "nkey": public, "sig": base64.RawURLEncoding.EncodeToString(signature)}
	}
}

// policies of devices, in memory.
type policies map[wire.DeviceID]policy.Policy

func (p policies) Policy(_ context.Context, id wire.DeviceID) (policy.Policy, error) {
	if found, there := p[id]; there {
		return found, nil
	}
	return policy.Policy{}, policy.ErrNone
}

// answer runs the callout, and waits until it lets the devices in.
func (a *arena) answer(known policies) {
	a.Helper()
	c := a.broker.Callout()
	c.OIDC.Issuer, c.OIDC.Audience = "http://127.0.0.1:1", "project" // nobody brings a token
	var mu sync.Mutex
	var lines []string
	a.logged = func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(lines, "\n")
	}
	service, err := callout.New(callout.Options{
		Config: c, Policies: known, Provider: http.DefaultClient, Now: time.Now,
		Log: funcr.New(func(_, args string) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, args)
		}, funcr.Options{Verbosity: 1}),
	})
	a.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := service.Run(ctx); err != nil {
			a.Error(err)
		}
	})
	a.hush = func() { cancel(); running.Wait() }
	a.Cleanup(a.hush)
	a.eventually("the callout listens", func() bool { return strings.Contains(a.logged(), "answering the broker") })
	a.eventually("the callout lets devices in", func() bool {
		nc, err := nats.Connect(a.broker.URL(), append(a.options[victim], nats.NoReconnect(), nats.Timeout(patience))...)
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
}

func newArena(t *testing.T, options broker.Options) *arena {
	t.Helper()
	a := &arena{T: t, broker: start(t, options), proofs: map[wire.DeviceID]proof{}, options: map[wire.DeviceID][]nats.Option{}}
	var err error
	a.js, err = jetstream.New(dial(t, a.broker, a.broker.Provisioner()))
	a.must(err)
	a.fill()
	return a
}

// listen has the victim subscribe to all that it may, and a person to an inbox.
func (a *arena) listen() *arena {
	a.Helper()
	var err error
	a.victim, err = nats.Connect(a.broker.URL(), append(a.options[victim], nats.CustomInboxPrefix(wire.InboxPrefix(victim)))...)
	a.must(err)
	a.Cleanup(a.victim.Close)
	for _, subject := range wire.DevicePermissions(victim).Subscribe {
		ear, err := a.victim.SubscribeSync(subject)
		a.must(err)
		a.ears = append(a.ears, ear)
	}
	ear, err := dial(a.T, a.broker, a.broker.Admin()).SubscribeSync("_INBOX.staff.>")
	a.must(err)
	a.ears = append(a.ears, ear)
	a.arrived()
	return a
}

// heard is what the victim and the staff heard since they were last asked.
func (a *arena) heard() (all []string) {
	a.Helper()
	for _, ear := range a.ears {
		for {
			msg, err := ear.NextMsg(time.Microsecond)
			if err != nil {
				break
			}
			all = append(all, msg.Subject+" "+string(msg.Data))
		}
	}
	return all
}

// arrived waits until all that was sent to the victim and the staff has arrived.
func (a *arena) arrived() {
	a.Helper()
	a.must(a.victim.Flush())
	a.must(a.js.Conn().Flush())
}

func (a *arena) must(err error) {
	a.Helper()
	if err != nil {
		a.Fatal(err)
	}
}

func (a *arena) eventually(what string, holds func() bool) {
	a.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			a.Fatalf("not in %s: %s", patience, what)
		}
	}
}

// raw is a connection of the device in the raw protocol.
func (a *arena) raw(id wire.DeviceID) *rawClient {
	a.Helper()
	return dialRaw(a.T, a.broker.URL(), a.proofs[id])
}

// log is what the broker has logged.
func (a *arena) log() string {
	a.Helper()
	text, err := os.ReadFile(filepath.Join(a.broker.Dir(), "broker.log"))
	a.must(err)
	return string(text)
}

// consumer is the name of the operator's consumer.
const consumer = "operator"

// fill gives each bucket a key of the victim and one of the attacker, and the
// operator a consumer.
func (a *arena) fill() {
	a.Helper()
	for _, owner := range []struct {
		id    wire.DeviceID
		value string
	}{{victim, secret}, {attacker, "the attacker's own"}} {
		id := string(owner.id)
		for _, subject := range []string{
			wire.DesiredState.Subject(id), wire.DesiredState.Subject(id + ".default.web"),
			wire.DeviceStates.Subject(id + ".default.web"), wire.DeviceInfos.Subject(id), wire.DeviceHeartbeats.Subject(id),
		} {
			a.write(subject, owner.value)
		}
	}
	_, err := a.js.CreateConsumer(a.Context(), wire.DesiredState.Stream(), jetstream.ConsumerConfig{Durable: consumer, AckPolicy: jetstream.AckExplicitPolicy})
	a.must(err)
}

func (a *arena) write(subject, value string) {
	a.Helper()
	_, err := a.js.Publish(a.Context(), subject, []byte(value))
	a.must(err)
}

// settle returns when what devices did before has come to its end: the broker
// handles the messages of a stream in their order, answers included, and what an
// answer causes in a stream comes before the second fence.
func (a *arena) settle() {
	a.Helper()
	for range 2 {
		for _, bucket := range wire.Buckets() {
			a.write(bucket.Subject("fence"), "")
		}
		_, err := a.js.Conn().Request(wire.DesiredState.DirectGet("fence"), nil, patience)
		a.must(err)
	}
	a.arrived()
}

// dump is everything that is stored except the attacker's own info, heartbeat
// and states: every value, and that the operator's consumer is what it was.
func (a *arena) dump() map[string]string {
	a.Helper()
	all := map[string]string{}
	for _, bucket := range wire.Buckets() {
		stream, err := a.js.Stream(a.Context(), bucket.Stream())
		if err != nil {
			all[bucket.Name] = err.Error()
			continue
		}
		info, err := stream.Info(a.Context(), jetstream.WithSubjectFilter(">"))
		a.must(err)
		config := info.Config
		config.Metadata = nil // tells the server's version
		text, err := json.Marshal(config)
		a.must(err)
		all[bucket.Name] = string(text)
		for subject := range info.State.Subjects {
			key, _ := bucket.Key(subject)
			if key == "fence" || bucket.Name != wire.DesiredState.Name && strings.HasPrefix(key+".", string(attacker)+".") {
				continue
			}
			msg, err := stream.GetLastMsgForSubject(a.Context(), subject)
			if err != nil {
				all[bucket.Name+"/"+key] = err.Error()
				continue
			}
			all[bucket.Name+"/"+key] = fmt.Sprintf("%s %s", msg.Data, msg.Header.Get(wire.HeaderOperation))
		}
	}
	all["consumer"] = "gone"
	if c, err := a.js.Consumer(a.Context(), wire.DesiredState.Stream(), consumer); err == nil {
		info := c.CachedInfo()
		all["consumer"] = fmt.Sprint(info.Delivered.Consumer, info.Paused)
	}
	return all
}

// live has something happen that others would like to hear: the operator writes
// the victim's desired state, the victim reads it, answers a command, and beats.
func (a *arena) live() {
	a.Helper()
	a.write(wire.DesiredState.Subject(string(victim)), secret)
	a.write(wire.DesiredState.Subject(string(victim)+".default.web"), secret)
	answer := nats.NewInbox()
	a.must(a.js.Conn().PublishRequest(wire.CommandSubject(victim, wire.VerbPing), answer, []byte(secret)))
	a.must(a.js.Conn().Flush())
	_, err := a.victim.Request(wire.DesiredState.DirectGet(string(victim)), nil, patience)
	a.must(err)
	a.must(a.victim.Publish(wire.DeviceStates.Subject(string(victim)+".default.web"), []byte(secret)))
	a.must(a.victim.Publish(wire.DeviceHeartbeats.Subject(string(victim)), []byte(secret)))
	a.must(a.victim.Flush()) // before the fences, which others send
	a.settle()               // the heartbeat comes back to the victim
	a.heard()
}

// control is an arena without defences: one account for all, no permissions, no
// limits, and streams as a key-value library makes them.
func control(t *testing.T) *arena {
	t.Helper()
	a := newArena(t, broker.Options{})
	as := a.broker.Provisioner()
	for _, id := range []wire.DeviceID{attacker, victim} {
		a.proofs[id], a.options[id] = password(as), []nats.Option{nats.UserInfo(as.User, as.Password)}
	}
	return a.listen()
}

// restore makes the streams of a control anew, whatever became of them. What is
// stored twice on the way, since its acknowledgement was lost, is stored once more:
// attacks name messages by their sequences.
func (a *arena) restore() {
	a.Helper()
	a.eventually("the streams are made anew", func() bool {
		a.remake()
		for _, bucket := range wire.Buckets() {
			stream, err := a.js.Stream(a.Context(), bucket.Stream())
			a.must(err)
			if state := stream.CachedInfo().State; state.LastSeq != state.Msgs {
				a.Logf("%s has %d messages, the last one with sequence %d", bucket.Name, state.Msgs, state.LastSeq)
				return false
			}
		}
		return true
	})
	a.arrived()
	a.heard()
}

func (a *arena) remake() {
	a.Helper()
	names := a.js.StreamNames(a.Context())
	for name := range names.Name() {
		a.must(a.js.DeleteStream(a.Context(), name))
	}
	a.must(names.Err())
	for _, bucket := range wire.Buckets() {
		config := bus.StreamConfig(bucket)
		config.AllowRollup, config.DenyDelete = true, false
		a.eventually("the stream is made anew", func() bool { // its folder may be on its way out
			_, err := a.js.CreateStream(a.Context(), config)
			return err == nil
		})
	}
	a.fill()
}
