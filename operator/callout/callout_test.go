package callout_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/callout"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// policies is a store of policies in memory; with problem it is down.
type policies struct {
	mu      sync.Mutex
	byID    map[wire.DeviceID]policy.Policy
	revoked map[wire.DeviceID]bool
	problem error
}

func (p *policies) Policy(_ context.Context, id wire.DeviceID) (policy.Policy, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found, there := p.byID[id]
	switch {
	case p.problem != nil:
		return policy.Policy{}, p.problem
	case p.revoked[id]:
		return policy.Policy{}, policy.ErrRevoked
	case !there:
		return policy.Policy{}, policy.ErrNone
	}
	return found, nil
}

func (p *policies) set(id wire.DeviceID, to policy.Policy) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byID[id] = to
}

func (p *policies) revoke(id wire.DeviceID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revoked[id] = true
}

// logbook keeps what was logged.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// world is a broker that asks a callout.
type world struct {
	*testing.T
	broker   *broker.Broker
	service  *callout.Service
	policies *policies
	log      *logbook
	skew     skewed
}

func newWorld(t *testing.T, change ...func(*config.CalloutConfig)) *world {
	t.Helper()
	b, err := broker.Start(t.Context(), broker.Options{Callout: true, LoginTimeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	w := &world{T: t, broker: b, policies: &policies{byID: map[wire.DeviceID]policy.Policy{}, revoked: map[wire.DeviceID]bool{}}, log: &logbook{}}
	c := b.Callout()
	c.OIDC.Issuer, c.OIDC.Audience, c.OpenBao.Address = "http://127.0.0.1:1", "project", "http://127.0.0.1:1"
	for _, each := range change {
		each(&c)
	}
	w.must(c.Validate())
	client := &http.Client{Timeout: time.Second}
	t.Cleanup(client.CloseIdleConnections)
	w.service, err = callout.New(callout.Options{
		Config: c, Policies: w.policies, Provider: client, Now: w.skew.now,
		Log: logr.FromSlogHandler(slog.NewTextHandler(io.MultiWriter(w.log, t.Output()), &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.service.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	w.eventually("it answers the broker", func() bool { return strings.Contains(w.log.String(), "answering the broker") })
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) eventually(what string, holds func() bool) {
	w.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("not in 30 s: %s", what)
		}
	}
}

// decisions counts what requests came to.
func (w *world) decisions(verdict string) (n float64) {
	w.Helper()
	registry := prometheus.NewRegistry()
	w.must(registry.Register(w.service.Collector()))
	families, err := registry.Gather()
	w.must(err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if family.GetName() == "fleet_callout_decisions_total" && label.GetValue() == verdict {
					n += m.GetCounter().GetValue()
				}
			}
		}
	}
	return n
}

// deviceKey is a device with a key of its own.
func (w *world) deviceKey() nkeys.KeyPair {
	w.Helper()
	pair, err := nkeys.CreateUser()
	w.must(err)
	return pair
}

func public(t *testing.T, pair nkeys.KeyPair) string {
	t.Helper()
	key, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// connect connects as the agent of a device does.
func (w *world) connect(user string, pair nkeys.KeyPair, more ...nats.Option) (*nats.Conn, error) {
	w.Helper()
	inbox := nats.CustomInboxPrefix("_INBOX_pi-1")
	nc, err := nats.Connect(w.broker.URL(), append([]nats.Option{
		nats.UserInfo(user, ""), nats.Nkey(public(w.T, pair), pair.Sign), nats.NoReconnect(), nats.Timeout(15 * time.Second), inbox,
	}, more...)...)
	if err == nil {
		w.Cleanup(nc.Close)
	}
	return nc, err
}

// TestDeviceByKey: a device that its policy knows by its key gets its own
// permissions, and no others.
func TestDeviceByKey(t *testing.T) {
	w := newWorld(t)
	pair := w.deviceKey()
	w.policies.set("pi-1", policy.Policy{NKey: public(t, pair), Sources: []string{"127.0.0.0/8"}})
	refused := make(chan error, 10)
	nc, err := w.connect("pi-1", pair, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	w.must(err)
	if _, err := nc.Request(wire.DeviceInfos.Subject("pi-1"), []byte("{}"), 5*time.Second); err != nil {
		t.Errorf("its own key: %v", err)
	}
	w.must(nc.Publish(wire.DeviceInfos.Subject("pi-2"), []byte("{}")))
	w.must(nc.Flush())
	select {
	case err := <-refused:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("another's key: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("another's key may be written")
	}
	if w.decisions("granted") != 1 || w.decisions("denied") != 0 {
		t.Errorf("%v granted, %v denied", w.decisions("granted"), w.decisions("denied"))
	}
}

// TestDenied: whatever does not fit is refused, with the reason in the log and
// not on the wire.
func TestDenied(t *testing.T) {
	w := newWorld(t)
	own, other := w.deviceKey(), w.deviceKey()
	account, err := nkeys.CreateAccount()
	w.must(err)
	w.policies.set("pi-1", policy.Policy{NKey: public(t, own)})
	w.policies.set("pi-2", policy.Policy{NKey: public(t, own)})
	w.policies.revoke("pi-2")
	w.policies.set("pi-3", policy.Policy{})
	for reason, c := range map[string]struct {
		user string
		pair nkeys.KeyPair
		more []nats.Option
		log  string
	}{
		"a key of another":        {"pi-1", other, nil, "a key that its policy does not name"},
		"revoked":                 {"pi-2", own, nil, "is revoked"},
		"no key in the policy":    {"pi-3", own, nil, "a key that its policy does not name"},
		"never enrolled":          {"pi-4", own, nil, "there is no policy"},
		"a wildcard":              {"*", own, nil, "not a DNS label"},
		"a tail wildcard":         {"pi-1.>", own, nil, "not a DNS label"},
		"a dot at the end":        {"pi-1.", own, nil, "not a DNS label"},
		"upper case":              {"PI-1", own, nil, "not a DNS label"},
		"a look-alike":            {"pі-1", own, nil, "not a DNS label"},
		"no name":                 {"", own, nil, "not a DNS label"},
		"a name with a line feed": {"pi-1\n", own, nil, "not a DNS label"},
		"a key of an account":     {"pi-1", account, nil, "not a user's"},
		"the signature of another": {"pi-1", own, []nats.Option{
			nats.Nkey(public(t, own), other.Sign),
		}, "did not sign with the key"},
		"no signature": {"pi-1", own, []nats.Option{
			nats.Nkey(public(t, own), func([]byte) ([]byte, error) { return nil, nil }),
		}, "did not sign with the key"},
		"a token too": {"pi-1", own, []nats.Option{nats.Token("x")}, "want one of them"},
	} {
		t.Run(reason, func(t *testing.T) {
			before := len(w.log.String())
			_, err := w.connect(c.user, c.pair, c.more...)
			if !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("got %v, want a refusal", err)
			}
			if err != nil && strings.Contains(err.Error(), c.log) {
				t.Errorf("the reason is on the wire: %v", err)
			}
			if log := w.log.String()[before:]; !strings.Contains(log, c.log) || !strings.Contains(log, "denied") {
				t.Errorf("logged %q, want %q", log, c.log)
			}
		})
	}
	if w.decisions("granted") != 0 {
		t.Errorf("%v granted, %v denied", w.decisions("granted"), w.decisions("denied"))
	}
}

// TestSessionEnds: the broker ends a connection when the session is over, and the
// next one begins with the policy as it is then.
func TestSessionEnds(t *testing.T) {
	w := newWorld(t, func(c *config.CalloutConfig) { c.SessionMax = config.Duration(time.Minute) })
	pair := w.deviceKey()
	w.policies.set("pi-1", policy.Policy{NKey: public(t, pair)})
	nc, err := w.connect("pi-1", pair)
	w.must(err)
	if !nc.IsConnected() {
		t.Error("not connected")
	}
	w.policies.revoke("pi-1")
	if _, err := w.connect("pi-1", pair); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("after the revocation: %v", err)
	}
}

// TestCut: the connections of a device end, and those of others do not.
func TestCut(t *testing.T) {
	w := newWorld(t)
	pair := w.deviceKey()
	closed := map[wire.DeviceID]chan struct{}{}
	for _, id := range []wire.DeviceID{"pi-1", "pi-10", "pi-2"} {
		w.policies.set(id, policy.Policy{NKey: public(t, pair)})
		ended := make(chan struct{})
		closed[id] = ended
		_, err := w.connect(string(id), pair, nats.ClosedHandler(func(*nats.Conn) { close(ended) }))
		w.must(err)
	}
	w.policies.revoke("pi-1")
	w.service.Cut([]wire.DeviceID{"pi-1", "nobody"})
	select {
	case <-closed["pi-1"]:
	case <-time.After(10 * time.Second):
		t.Error("the revoked device stays connected")
	}
	for _, id := range []wire.DeviceID{"pi-10", "pi-2"} {
		select {
		case <-closed[id]:
			t.Errorf("%s was cut too", id)
		default:
		}
	}
	if _, err := w.connect("pi-1", pair); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("it comes back: %v", err)
	}
}

// TestSources: a policy may name the networks that its device connects from.
func TestSources(t *testing.T) {
	w := newWorld(t)
	pair := w.deviceKey()
	w.policies.set("pi-1", policy.Policy{NKey: public(t, pair), Sources: []string{"192.0.2.0/24"}})
	if _, err := w.connect("pi-1", pair); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("from another network: %v", err)
	}
}

// TestUnreadableKeys: what is wrong with a key file is told, and nothing of it.
func TestUnreadableKeys(t *testing.T) {
	b, err := broker.Start(t.Context(), broker.Options{Callout: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	damaged := filepath.Join(t.TempDir(), "damaged")
	if err := os.WriteFile(damaged, []byte("SAHUNTER2"), 0o600); err != nil {
		t.Fatal(err)
	}
	for reason, c := range map[string]struct {
		change func(*config.CalloutConfig)
		want   string
	}{
		"missing":         {func(c *config.CalloutConfig) { c.IssuerKeyFile = "/nonexistent" }, "issuerKeyFile"},
		"damaged":         {func(c *config.CalloutConfig) { c.IssuerKeyFile = damaged }, "issuerKeyFile"},
		"of another kind": {func(c *config.CalloutConfig) { c.XKeyFile = c.IssuerKeyFile }, "xkeyFile"},
	} {
		conf := b.Callout()
		c.change(&conf)
		_, err := callout.New(callout.Options{Config: conf, Provider: http.DefaultClient, Now: time.Now})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "HUNTER") {
			t.Errorf("%s: %v", reason, err)
		}
	}
}
