// Package identity_test has devices log in with the tokens of an OpenID provider:
// the agent's connection and its source of tokens, a broker, the auth callout and
// a provider, all of them real. Only the policies are kept in memory.
package identity_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/nationtech/harmony-fleet/agent/bus"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/agent/token"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/callout"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const device wire.DeviceID = "pi-4"

// lifetime of the tokens where a test waits for them to expire.
const lifetime = 10 * time.Second

// policies in memory.
type policies struct {
	mu   sync.Mutex
	byID map[wire.DeviceID]policy.Policy
}

func (p *policies) Policy(_ context.Context, id wire.DeviceID) (policy.Policy, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found, there := p.byID[id]
	if !there {
		return policy.Policy{}, policy.ErrNone
	}
	return found, nil
}

// logbook keeps log lines and shows them in the test's output.
type logbook struct {
	mu    sync.Mutex
	lines []string
}

func (l *logbook) logger(t *testing.T) logr.Logger {
	over := false // with mu: a test that ended takes no more lines
	t.Cleanup(func() { l.mu.Lock(); defer l.mu.Unlock(); over = true })
	return funcr.New(func(prefix, args string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lines = append(l.lines, args)
		if !over {
			t.Log(prefix, args)
		}
	}, funcr.Options{Verbosity: 1})
}

// having counts the lines that contain the words.
func (l *logbook) having(words string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, words) {
			n++
		}
	}
	return n
}

// running is a broker of either kind.
type running interface {
	NATS() v1alpha1.NATSSection
	URL() string
	Provisioner() v1alpha1.Credentials
	Callout() v1alpha1.CalloutConfig
	TrustedKeys() []string
	Manifest(wire.DeviceID, uint64, map[string]wire.ManifestEntry) ([]byte, error)
	Stop()
}

// world is a provider that knows the device, and a broker whose callout trusts it.
type world struct {
	*testing.T
	provider *oidc.Provider
	machine  oidc.Credentials
	broker   running
	policies *policies
	callout  *logbook
	fleet    *nats.Conn
}

func newWorld(t *testing.T, options oidc.Options) *world {
	t.Helper()
	b, err := broker.Start(t.Context(), broker.Options{Callout: true})
	if err != nil {
		t.Fatal(err)
	}
	return newWorldOf(t, options, b)
}

func newWorldOf(t *testing.T, options oidc.Options, b running) *world {
	t.Helper()
	t.Cleanup(b.Stop)
	w := &world{T: t, broker: b, callout: &logbook{}, policies: &policies{byID: map[wire.DeviceID]policy.Policy{device: {}}}}
	var err error
	w.provider, err = oidc.Start(t.Context(), options)
	w.must(err)
	t.Cleanup(w.provider.Stop)
	w.machine, err = w.provider.AddMachine(oidc.Machine{Name: "device-" + string(device), Roles: []string{"device"}, RoleClaims: oidc.ProjectRoleMap})
	w.must(err)
	as := b.Provisioner()
	w.fleet, err = nats.Connect(b.URL(), nats.UserInfo(as.User, as.Password), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	w.must(err)
	t.Cleanup(w.fleet.Close)

	c := b.Callout()
	c.OIDC.Issuer, c.OIDC.Audience = w.provider.Issuer(), w.provider.ProjectID()
	c.OpenBao.Address = "http://127.0.0.1:1" // not asked: the policies are in memory
	w.must(c.Validate())
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	service, err := callout.New(callout.Options{Config: c, Policies: w.policies, Provider: client, Now: time.Now, Log: w.callout.logger(t).WithName("callout")})
	w.must(err)
	w.background(func(ctx context.Context) {
		if err := service.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	w.eventually("the callout answers", func() bool { return w.callout.having("answering the broker") > 0 })
	return w
}

// background runs do until the test ends.
func (w *world) background(do func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { do(ctx) })
	w.Cleanup(func() { cancel(); work.Wait() })
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) eventually(what string, holds func() bool) {
	w.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("not in a minute: %s", what)
		}
	}
}

func (w *world) file(content []byte) string {
	w.Helper()
	path := filepath.Join(w.TempDir(), "file")
	w.must(os.WriteFile(path, content, 0o600))
	return path
}

// byKey and bySecret are credentials of the device.
func (w *world) byKey() v1alpha1.Credentials {
	return v1alpha1.Credentials{
		Type: v1alpha1.CredentialZitadelJWT, Issuer: w.provider.Issuer(), Audience: w.provider.ProjectID(),
		KeyFile: w.file(w.machine.KeyJSON),
	}
}

func (w *world) bySecret() v1alpha1.Credentials {
	return v1alpha1.Credentials{
		Type: v1alpha1.CredentialClientCredentials, Issuer: w.provider.Issuer(), Audience: w.provider.ProjectID(),
		ClientID: w.machine.ClientID, ClientSecretFile: w.file([]byte(w.machine.ClientSecret)),
	}
}

// workloads remembers what is to run.
type workloads struct {
	mu   sync.Mutex
	held store.Desired
}

func (l *workloads) Desired() store.Desired {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}

func (l *workloads) Apply(d store.Desired) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = d
	return nil
}

// agent is the device's connection, and what it heard and logged.
type agent struct {
	*bus.Bus
	workloads *workloads
	log       *logbook
}

func (w *world) target(c v1alpha1.Credentials, now func() time.Time, log logr.Logger) bus.Target {
	w.Helper()
	w.must(c.Validate())
	return bus.Target{
		Device: device, NATS: w.broker.NATS(), Credentials: c, TrustedKeys: w.broker.TrustedKeys(),
		Tokens: token.New(token.Options{Credentials: c, Now: now, Log: log.WithName("token")}),
	}
}

// run starts the device's connection.
func (w *world) run(c v1alpha1.Credentials, now func() time.Time) *agent {
	w.Helper()
	a := &agent{log: &logbook{}, workloads: &workloads{}}
	log := a.log.logger(w.T)
	a.Bus = bus.New(bus.Options{
		Target: w.target(c, now, log), Session: "0123abcd", Workloads: a.workloads,
		Connection: func(string, error) {}, Refused: func(error) {}, Now: time.Now, Log: log.WithName("bus"),
	})
	w.background(a.Run)
	return a
}

// arrives has the device say something new of itself, and waits until the fleet
// has it.
func (w *world) arrives(a *agent, what string) {
	w.Helper()
	info := wire.DeviceInfo{Labels: map[string]string{"said": what}}
	w.must(a.PutInfo(info))
	w.eventually("the fleet hears "+what, func() bool {
		msg, err := w.fleet.Request(wire.DeviceInfos.DirectGet(wire.DeviceKey(device)), nil, time.Second)
		return err == nil && strings.Contains(string(msg.Data), fmt.Sprintf("%q", what))
	})
}

// want stores an empty desired state of that generation, and waits until the
// device has it.
func (w *world) want(a *agent, generation uint64) {
	w.Helper()
	manifest, err := w.broker.Manifest(device, generation, nil)
	w.must(err)
	w.eventually("the broker takes the desired state", func() bool {
		ack, err := w.fleet.Request(wire.DesiredState.Subject(wire.DeviceKey(device)), manifest, time.Second)
		return err == nil && !strings.Contains(string(ack.Data), `"error"`)
	})
	w.eventually("the device has the desired state", func() bool { return a.workloads.Desired().Generation == generation })
}
