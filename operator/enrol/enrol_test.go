package enrol_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/enrol"
	"github.com/nationtech/harmony-fleet/operator/openbao"
	"github.com/nationtech/harmony-fleet/operator/roster"
	"github.com/nationtech/harmony-fleet/smoke/kube"
	server "github.com/nationtech/harmony-fleet/smoke/openbao"
)

func TestMain(m *testing.M) {
	code := kube.RunTests(m)
	if err := goleak.Find(goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1")); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const key = "UBUUX6PETB2DPTXVTQLDLBZLT5G2C67HWC456RLPH6RIQTS5G3PMCTIK"

// place is where devices are, in the cluster or at the broker.
type place map[wire.DeviceID]bool

func (p place) HasDevice(_ context.Context, id wire.DeviceID) (bool, error) { return p[id], nil }
func (p place) Remembers(_ context.Context, id wire.DeviceID) (bool, error) { return p[id], nil }
func (p place) DeleteDevice(_ context.Context, id wire.DeviceID) error      { delete(p, id); return nil }

// world is a store of policies and a person who works with it.
type world struct {
	*testing.T
	store enrol.Store
	// entities is nil without OpenBao.
	entities enrol.Entities
	// join has the callout write the device's key.
	join            func(wire.DeviceID) error
	cluster, broker place
	now             time.Time
	waiting         func() error // what happens while a command waits
}

// eachStore does a test with either store of policies.
func eachStore(t *testing.T, test func(*world)) {
	t.Run("OpenBao", func(t *testing.T) { test(inOpenBao(t)) })
	t.Run("the cluster", func(t *testing.T) { test(inCluster(t)) })
}

func newWorld(t *testing.T) *world {
	return &world{T: t, cluster: place{}, broker: place{}, now: time.Now(), waiting: func() error { return nil }}
}

func inOpenBao(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	s, err := server.Start(t.Context(), server.Options{})
	w.must(err)
	t.Cleanup(s.Stop)
	bao, err := s.Fleet(t.Context())
	w.must(err)
	token, err := bao.Person(t.Context())
	w.must(err)
	t.Setenv("BAO_TOKEN", token)
	admin, err := openbao.NewAdmin(bao.Address(), "fleet")
	w.must(err)
	t.Cleanup(admin.Close)
	w.store, w.entities = admin, admin
	w.join = func(id wire.DeviceID) error {
		p := *w.records(id).Policy
		p.NKey = key
		return errors.Join(admin.PutPolicy(t.Context(), id, p, w.records(id).Version), admin.DropEnrolment(t.Context(), id))
	}
	return w
}

// inCluster has nothing left of other tests.
func inCluster(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	plane := kube.Shared(t)
	w.must(kube.InstallCRDs(t.Context(), plane.Config(), crds.All()))
	admin, err := roster.NewAdmin(plane.Config())
	w.must(err)
	t.Cleanup(admin.Close)
	w.store = admin
	callout, err := roster.New(roster.Options{Kube: plane.Config(), Config: config.RosterDefaults(), Log: logr.Discard(), Now: time.Now})
	w.must(err)
	t.Cleanup(callout.Close)
	w.join = func(id wire.DeviceID) error {
		records, err := callout.Records(t.Context(), id)
		w.must(err)
		return callout.Admit(t.Context(), id, key, records)
	}
	w.must(admin.DestroyPolicy(t.Context(), "pi-1", w.records("pi-1").Version))
	w.must(admin.DropRevocation(t.Context(), "pi-1"))
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// registry is one command of a person; waiting takes no time.
func (w *world) registry() *enrol.Registry {
	return &enrol.Registry{
		Store: w.store, Entities: w.entities, Cluster: w.cluster, Broker: w.broker,
		Now: func() time.Time { return w.now },
		Wait: func(_ context.Context, d time.Duration) error {
			w.now = w.now.Add(d)
			return w.waiting()
		},
		Tell: func(text string) { w.Log(text) },
	}
}

func (w *world) records(id wire.DeviceID) policy.Records {
	w.Helper()
	r, err := w.store.Records(w.Context(), id)
	w.must(err)
	return r
}

func request(id wire.DeviceID) enrol.Request {
	return enrol.Request{Device: id, ValidFor: time.Hour, Policy: policy.Policy{Labels: map[string][]string{"site": {"berlin"}}}}
}

// enrolled is a device that has joined.
func (w *world) enrolled(id wire.DeviceID) {
	w.Helper()
	_, err := w.registry().Enrol(w.Context(), request(id))
	w.must(err)
	w.must(w.join(id))
}

// TestEnrolTakesFreeIDs: whatever is known of an id keeps it taken, and the error
// says what it is and what to do.
func TestEnrolTakesFreeIDs(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*world) error
		want    []string
	}{
		"free": {func(*world) error { return nil }, nil},
		"in the cluster": {func(w *world) error { w.cluster["pi-1"] = true; return nil },
			[]string{"there is a Device of that name in the cluster", "kubectl fleet remove pi-1"}},
		"enrolled": {func(w *world) error { w.enrolled("pi-1"); return nil }, []string{"it is enrolled", "re-enroll pi-1", "remove pi-1"}},
		"about to join": {func(w *world) error { _, err := w.registry().Enrol(w.Context(), request("pi-1")); return err },
			[]string{"its device may join until", "re-enroll pi-1"}},
		"revoked": {func(w *world) error {
			return w.store.PutRevocation(w.Context(), "pi-1", policy.Revocation{Reason: "lost"}, "")
		}, []string{`it is revoked (reason "lost")`, "re-enroll pi-1"}},
		"half removed": {func(w *world) error {
			return w.store.PutEnrolment(w.Context(), "pi-1", policy.NewToken("pi-1").Enrolment(w.now))
		}, []string{"an enrolment is left over", "remove pi-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			eachStore(t, func(w *world) {
				w.must(c.prepare(w))
				before := w.records("pi-1")
				ticket, err := w.registry().Enrol(w.Context(), request("pi-1"))
				if c.want == nil {
					w.must(err)
					r := w.records("pi-1")
					if !r.Policy.Allows("site", "berlin") || r.Enrolment.Admits(ticket.Token, w.now) != nil || !r.Enrolment.Expires.Equal(ticket.Expires) {
						w.Errorf("the store has %+v", r)
					}
					return
				}
				if err == nil {
					w.Fatal("the id was given out")
				}
				for _, words := range c.want {
					if !strings.Contains(err.Error(), words) {
						w.Errorf("%v; want %q in it", err, words)
					}
				}
				if after := w.records("pi-1"); after.Version != before.Version {
					w.Error("the policy was written")
				}
			})
		})
	}
}

// TestEnrolRace: of people who enrol the same id at once one gets a command, and
// that one works.
func TestEnrolRace(t *testing.T) {
	eachStore(t, func(w *world) {
		var racing sync.WaitGroup
		tickets, failures := make([]enrol.Ticket, 8), make([]error, 8)
		for i := range tickets {
			r := w.registry()
			racing.Go(func() { tickets[i], failures[i] = r.Enrol(w.Context(), request("pi-1")) })
		}
		racing.Wait()
		won := 0
		for i, err := range failures {
			if err != nil {
				continue
			}
			won++
			if err := w.records("pi-1").Enrolment.Admits(tickets[i].Token, w.now); err != nil {
				w.Errorf("the command of the one who won: %v", err)
			}
		}
		if won != 1 {
			w.Errorf("%d got a command: %v", won, failures)
		}
	})
}

// TestRenew: nobody is let in by the old key or token from the moment on, and while
// those are cut off who were let in before; then by the new token alone. What is
// not asked for stays.
func TestRenew(t *testing.T) {
	eachStore(t, func(w *world) {
		w.enrolled("pi-1")
		waited := false
		w.waiting = func() error {
			waited = true
			if r := w.records("pi-1"); r.Revocation == nil || r.Policy.NKey != "" || r.Enrolment != nil {
				w.Errorf("while they are cut off the store has %+v, %+v", r.Policy, r)
			}
			return nil
		}
		ticket, err := w.registry().Renew(w.Context(), enrol.Request{Device: "pi-1", ValidFor: time.Hour, Policy: policy.Policy{Sources: []string{"192.0.2.0/24"}}})
		w.must(err)
		r := w.records("pi-1")
		if !waited || r.Revocation != nil || r.Policy.NKey != "" || !r.Policy.Allows("site", "berlin") || !r.Policy.From("192.0.2.1") || r.Policy.From("198.51.100.1") {
			w.Errorf("waited %v; the store has %+v, %+v", waited, r.Policy, r.Revocation)
		}
		w.must(r.Enrolment.Admits(ticket.Token, w.now))
		again, err := w.registry().Renew(w.Context(), enrol.Request{Device: "pi-1", ValidFor: time.Hour})
		w.must(err)
		if err := w.records("pi-1").Enrolment.Admits(ticket.Token, w.now); !errors.Is(err, policy.ErrToken) {
			w.Errorf("the earlier token: %v", err)
		}
		w.must(w.records("pi-1").Enrolment.Admits(again.Token, w.now))
		if _, err := w.registry().Renew(w.Context(), request("pi-2")); err == nil || !strings.Contains(err.Error(), "kubectl fleet enroll pi-2") {
			w.Errorf("a device that is not enrolled: %v", err)
		}
	})
}

// TestRenewInterrupted: who is interrupted leaves the device out, and begins again.
func TestRenewInterrupted(t *testing.T) {
	eachStore(t, func(w *world) {
		w.enrolled("pi-1")
		w.waiting = func() error { return context.Canceled }
		if _, err := w.registry().Renew(w.Context(), request("pi-1")); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "stays revoked") {
			w.Errorf("got %v", err)
		}
		if r := w.records("pi-1"); r.Revocation == nil || r.Policy.NKey != "" {
			w.Errorf("the store has %+v, %+v", r.Policy, r.Revocation)
		}
		w.waiting = func() error { return nil }
		_, err := w.registry().Renew(w.Context(), request("pi-1"))
		w.must(err)
		if r := w.records("pi-1"); r.Revocation != nil || r.Enrolment == nil {
			w.Errorf("the store has %+v", r)
		}
	})
}

// TestRevokeWins: a revocation that comes while the device is given another key is
// not undone by that.
func TestRevokeWins(t *testing.T) {
	eachStore(t, func(w *world) {
		w.enrolled("pi-1")
		w.waiting = func() error {
			_, err := w.registry().Revoke(w.Context(), "pi-1", "stolen")
			return err
		}
		if _, err := w.registry().Renew(w.Context(), request("pi-1")); err == nil || !strings.Contains(err.Error(), `stays revoked, because somebody revoked it meanwhile`) {
			w.Errorf("got %v", err)
		}
		if r := w.records("pi-1"); r.Revocation == nil || r.Revocation.Reason != "stolen" || r.Enrolment != nil {
			w.Errorf("the store has %+v", r)
		}
	})
}

// TestRevoke: it withdraws the token too, and the first reason stays.
func TestRevoke(t *testing.T) {
	eachStore(t, func(w *world) {
		_, err := w.registry().Enrol(w.Context(), request("pi-1"))
		w.must(err)
		for _, c := range []struct{ reason, already string }{{"lost", ""}, {"other", "lost"}} {
			already, err := w.registry().Revoke(w.Context(), "pi-1", c.reason)
			w.must(err)
			if (already == nil) != (c.already == "") || already != nil && already.Reason != c.already {
				w.Errorf("%s: it was revoked before: %+v", c.reason, already)
			}
		}
		if r := w.records("pi-1"); r.Revocation.Reason != "lost" || r.Enrolment != nil || r.Policy == nil {
			w.Errorf("the store has %+v", r)
		}
		if _, err := w.registry().Revoke(w.Context(), "pi-2", ""); err == nil || !strings.Contains(err.Error(), "is not enrolled") {
			w.Errorf("a device that nobody knows: %v", err)
		}
		_, err = w.registry().Renew(w.Context(), request("pi-1"))
		w.must(err)
		if r := w.records("pi-1"); r.Revocation != nil {
			w.Errorf("it is still revoked: %s", r.Revocation)
		}
	})
}

// TestRemove: the device stays out until nobody knows anything of it, and then the
// id is free.
func TestRemove(t *testing.T) {
	eachStore(t, func(w *world) {
		w.enrolled("pi-1")
		w.cluster["pi-1"], w.broker["pi-1"] = true, true
		waits := 0
		w.waiting = func() error {
			waits++
			switch waits {
			case 3:
				w.cluster["pi-1"] = true // the operator made it once more
			case 5:
				delete(w.broker, "pi-1")
			}
			if r := w.records("pi-1"); r.Revocation == nil {
				w.Error("it is let in before it is forgotten")
			}
			return nil
		}
		w.must(w.registry().Remove(w.Context(), "pi-1"))
		if r := w.records("pi-1"); waits < 5 || r.Policy != nil || r.Enrolment != nil || r.Revocation != nil || w.cluster["pi-1"] {
			w.Errorf("after %d waits there is %+v, %v", waits, r, w.cluster)
		}
		if err := w.registry().Remove(w.Context(), "pi-1"); err == nil || !strings.Contains(err.Error(), "there is nothing to remove") {
			w.Errorf("again: %v", err)
		}
		w.must(func() error { _, err := w.registry().Enrol(w.Context(), request("pi-1")); return err }())
	})
}

// TestRemoveInterrupted: it stays out, and the next time goes on; also for one that
// the cluster alone knows.
func TestRemoveInterrupted(t *testing.T) {
	eachStore(t, func(w *world) {
		w.cluster["pi-1"], w.broker["pi-1"] = true, true
		w.waiting = func() error {
			if w.cluster["pi-1"] {
				return nil
			}
			return context.Canceled
		}
		if err := w.registry().Remove(w.Context(), "pi-1"); !errors.Is(err, context.Canceled) {
			w.Errorf("got %v", err)
		}
		if w.records("pi-1").Revocation == nil {
			w.Error("it is let in")
		}
		delete(w.broker, "pi-1")
		w.must(w.registry().Remove(w.Context(), "pi-1"))
		if r := w.records("pi-1"); r.Revocation != nil || r.Policy != nil {
			w.Errorf("there is %+v", r)
		}
	})
}
