package rehearsal_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	fleetv1 "github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
)

// bothRun waits until these versions, and nothing else, run on all devices, and
// everybody knows: the cluster, the broker and the agents.
func (f *fleet) bothRun(versions map[*fleetv1.Deployment]int) {
	f.Helper()
	byName := map[string]int{}
	for d, version := range versions {
		byName[d.Name] = version
		f.eventually(d.Name+" is current", func() error { return f.current(d, int32(len(f.devices))) })
	}
	for _, d := range f.devices {
		f.eventually("what runs on "+string(d.id), func() error { return f.runs(d, byName) })
	}
}

// token is one of the first device's, with some claims changed.
func (f *fleet) token(change map[string]any) string {
	f.Helper()
	claims, err := f.auth.Provider.Claims(f.auth.Callout.OIDC.DevicePrefix + string(first))
	f.must(err)
	maps.Copy(claims, change)
	token, err := f.auth.Provider.Token(claims)
	f.must(err)
	return token
}

func (f *fleet) logIn(token string) (*nats.Conn, error) {
	return nats.Connect(f.broker.URL(), nats.Token(token), nats.NoReconnect(), nats.Timeout(patience), nats.CustomInboxPrefix(wire.InboxPrefix(first)))
}

// TestDevices: with tokens two devices appear, run what is deployed and cannot reach
// each other; who has no good token stays out; and who is revoked is cut off, while
// the other one goes on.
func TestDevices(t *testing.T) {
	f := newFleet(t, 0)
	web := f.deploy("web")
	f.bothRun(map[*fleetv1.Deployment]int{web: 0})
	f.strangers()
	f.breakouts()
	f.must(f.update(web, 1))
	f.bothRun(map[*fleetv1.Deployment]int{web: 1})

	a, b := f.devices[0], f.devices[1]
	connected := a.log.having("connected to the broker")
	f.must(f.auth.Bao.Revoke(t.Context(), b.id, "stolen"))
	f.eventually("the revoked one is cut off", func() error { return f.offline(b) })
	f.must(f.update(web, 2))
	f.eventually("the other one goes on", func() error { return f.runs(a, map[string]int{"web": 2}) })
	f.eventually("it is refused when it comes back", func() error {
		if f.logs["callout"].having("denied", string(b.id), "is revoked") == 0 || b.log.having("refused the login") == 0 {
			return errors.New("nobody says so")
		}
		return nil
	})
	if out, err := b.podman.Run(t.Context(), "ps", "--quiet"); err != nil || len(strings.Fields(out)) != 1 {
		t.Errorf("containers of the revoked one: %s, %v", out, err)
	}
	if n := a.log.having("connected to the broker"); n != connected {
		t.Errorf("the other one connected %d times, and %d times before", n, connected)
	}
	f.must(f.auth.Bao.Pardon(t.Context(), b.id))
	f.bothRun(map[*fleetv1.Deployment]int{web: 2})
}

// strangers tries tokens that are no good. The one that they are made of is.
func (f *fleet) strangers() {
	f.Helper()
	provider := f.auth.Provider
	claims, err := provider.Claims(f.auth.Callout.OIDC.DevicePrefix + string(first))
	f.must(err)
	payload, err := json.Marshal(claims)
	f.must(err)
	unsigned, err := oidc.Sign(map[string]any{"alg": "none", "typ": "JWT"}, payload, nil)
	f.must(err)
	for reason, c := range map[string]struct{ token, log string }{
		"another audience": {f.token(map[string]any{"aud": []string{"300000000000000001"}}), "audience"},
		"expired":          {f.token(map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}), "expired at"},
		"unsigned":         {unsigned, "signature algorithm"},
		"not enrolled":     {f.token(map[string]any{"client_id": "device-pi-43"}), "there is no policy"},
	} {
		before := f.logs["callout"].having("denied", c.log)
		nc, err := f.logIn(c.token)
		if err == nil {
			nc.Close()
		}
		if !errors.Is(err, nats.ErrAuthorization) {
			f.Errorf("%s: got %v, want a refusal", reason, err)
		}
		if f.logs["callout"].having("denied", c.log) != before+1 {
			f.Errorf("%s: the log of the callout does not say %q", reason, c.log)
		}
	}
	nc, err := f.logIn(f.token(nil))
	f.must(err)
	nc.Close()
}

// breakouts has the first device try to get at the second, with a login like its own.
func (f *fleet) breakouts() {
	f.Helper()
	before, err := f.manifest(second)
	f.must(err)
	refused := make(chan string, 100)
	nc, err := nats.Connect(f.broker.URL(), nats.Token(f.token(nil)), nats.NoReconnect(), nats.Timeout(patience),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err.Error() }))
	f.must(err)
	defer nc.Close()
	state := wire.DeploymentKey(second, wire.DeploymentID{Namespace: "default", Name: "web"})
	tried := []string{
		wire.DesiredState.Subject(wire.DeviceKey(second)), wire.DesiredState.Subject(wire.DeviceKey(first)), wire.DesiredState.DirectGet(wire.DeviceKey(second)),
		wire.DeviceStates.Subject(state), wire.DeviceInfos.Subject(wire.DeviceKey(second)), wire.DeviceHeartbeats.Subject(wire.DeviceKey(second)),
		wire.CommandSubject(second, wire.VerbPing), wire.InboxPrefix(second) + ".x",
	}
	for _, subject := range tried {
		f.must(nc.Publish(subject, []byte("{}")))
	}
	heard := []string{">", wire.DesiredHint(wire.DeviceKey(second)), wire.DeviceStates.Subjects(), wire.InboxPrefix(second) + ".>", wire.CommandSubject(second, wire.VerbLogs)}
	for _, subject := range heard {
		_, err := nc.SubscribeSync(subject)
		f.must(err)
	}
	f.must(nc.FlushTimeout(patience))
	for _, subject := range append(tried, heard...) {
		f.eventually(subject+" is refused", func() error {
			select {
			case told := <-refused:
				if !strings.Contains(strings.ToLower(told), "permissions violation") {
					return fmt.Errorf("the broker says %q", told)
				}
				return nil
			default:
				return errors.New("it is not")
			}
		})
	}
	after, err := f.manifest(second)
	f.must(err)
	if diff := cmp.Diff(before, after); diff != "" {
		f.Errorf("what the other one shall run (-before +after):\n%s", diff)
	}
}

// TestOutage: OpenBao and the provider are down for longer than tokens live. Known
// devices go on and follow changes until the stated limit; then nobody is let in, and
// what runs runs on. When both are back, so are the devices.
func TestOutage(t *testing.T) {
	const lifetime = 15 * time.Second
	f := newFleet(t, lifetime)
	web := f.deploy("web")
	f.bothRun(map[*fleetv1.Deployment]int{web: 0})
	f.auth.Provider.Stop()
	f.auth.Bao.Kill()
	down := time.Now()
	for _, d := range f.devices {
		f.eventually("the session of "+string(d.id)+" began with a token that had expired", func() error {
			if time.Since(down) < lifetime || d.log.having("ends the session") == 0 || d.log.having("going on with the last one") == 0 {
				return errors.New("it did not")
			}
			_, err := f.ping(d)
			return err
		})
	}
	f.must(f.update(web, 1))
	f.bothRun(map[*fleetv1.Deployment]int{web: 1})

	limit := time.Duration(f.auth.Callout.OIDC.MaxStale)
	both := []wire.DeviceID{first, second}
	back := func() (n int) { return f.logs["callout"].having("granted", `"role"="device"`) }
	granted := back()
	f.skew.Store(int64(limit - 10*time.Minute)) // the outage is longer by some seconds
	f.callout.Cut(both)
	f.eventually("just before the limit both are let in", func() error {
		if n := back() - granted; n < len(both) {
			return fmt.Errorf("%d logins", n)
		}
		return nil
	})
	f.must(f.update(web, 2))
	f.bothRun(map[*fleetv1.Deployment]int{web: 2})

	f.skew.Store(int64(limit + time.Minute))
	granted = back()
	refusals := func() int { return f.logs["callout"].having("denied") + f.logs["callout"].having("unavailable") }
	refused := refusals()
	f.callout.Cut(both)
	f.eventually("beyond the limit nobody is let in", func() error {
		if n := refusals() - refused; n < len(both) {
			return fmt.Errorf("%d refusals", n)
		}
		return errors.Join(f.offline(f.devices[0]), f.offline(f.devices[1]))
	})
	if n := back() - granted; n != 0 {
		t.Errorf("%d logins beyond the limit", n)
	}
	for _, d := range f.devices {
		if out, err := d.podman.Run(t.Context(), "ps", "--quiet"); err != nil || len(strings.Fields(out)) != 1 {
			t.Errorf("containers of %s: %s, %v", d.id, out, err)
		}
	}

	f.skew.Store(0)
	f.must(f.auth.Bao.Restart(t.Context()))
	f.must(f.auth.Provider.Restart(t.Context()))
	f.must(f.update(web, 3))
	f.bothRun(map[*fleetv1.Deployment]int{web: 3})
}

// TestAgentRecoversFromNATSRestart: the broker is killed while Deployments change and
// devices write states, and stays away until all tokens have expired. Then both agents
// are current again: nothing is lost, older generations do not come back, and no
// consumer is left over.
func TestAgentRecoversFromNATSRestart(t *testing.T) {
	const lifetime = 15 * time.Second
	f := newFleet(t, lifetime)
	all := []*fleetv1.Deployment{f.deploy("web"), f.deploy("log"), f.deploy("db")}
	versions := map[*fleetv1.Deployment]int{all[0]: 0, all[1]: 0, all[2]: 0}
	f.bothRun(versions)
	before, err := f.consumers()
	f.must(err)
	connected := map[*device]int{}
	for _, d := range f.devices {
		connected[d] = d.log.having("connected to the broker")
	}

	var written, changed atomic.Int64
	states, err := f.streams.Conn().Subscribe(wire.DeviceStates.Subjects(), func(*nats.Msg) { written.Add(1) })
	f.must(err)
	stop := f.background(func(ctx context.Context) error {
		for version := 1; ; version++ {
			for _, d := range all {
				if err := f.update(d, version); err != nil {
					return err
				}
				versions[d] = version
				changed.Add(1)
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(200 * time.Millisecond):
				}
			}
		}
	})
	under := func(what string, most int64) {
		t.Helper()
		w, c := written.Load(), changed.Load()
		f.eventually(what, func() error {
			if n, m := written.Load()-w, changed.Load()-c; n < most || m < most {
				return fmt.Errorf("%d states, %d changes", n, m)
			}
			return nil
		})
	}
	under("there is load before", 6)
	f.broker.Kill()
	killed := time.Now()
	time.Sleep(lifetime + time.Second) // until what was a token is none
	c := changed.Load()
	f.eventually("Deployments change without the broker", func() error {
		if changed.Load() == c {
			return errors.New("they do not")
		}
		return nil
	})
	f.must(f.broker.Restart(t.Context()))
	t.Logf("the broker was away for %s", time.Since(killed))
	under("there is load after", 6)
	stop()
	f.must(states.Unsubscribe())
	f.bothRun(versions)

	f.eventually("there are the consumers that were", func() error {
		after, err := f.consumers()
		if err != nil {
			return err
		}
		if diff := cmp.Diff(before, after); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
	for _, d := range f.devices {
		if n := d.log.having("connected to the broker"); n <= connected[d] {
			t.Errorf("%s connected %d times, %d before", d.id, n, connected[d])
		}
		if n := d.log.having("is below"); n > 0 {
			t.Errorf("%s was offered older generations %d times", d.id, n)
		}
		f.eventually(string(d.id)+" is heard", func() error { return f.reachable(d) })
	}
}
