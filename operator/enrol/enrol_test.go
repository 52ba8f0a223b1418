package enrol_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/enrol"
	"github.com/nationtech/harmony-fleet/operator/openbao"
	server "github.com/nationtech/harmony-fleet/smoke/openbao"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const key = "UBUUX6PETB2DPTXVTQLDLBZLT5G2C67HWC456RLPH6RIQTS5G3PMCTIK"

// place is where devices are, in the cluster or at the broker.
type place map[wire.DeviceID]bool

func (p place) HasDevice(_ context.Context, id wire.DeviceID) (bool, error) { return p[id], nil }
func (p place) Remembers(_ context.Context, id wire.DeviceID) (bool, error) { return p[id], nil }
func (p place) DeleteDevice(_ context.Context, id wire.DeviceID) error      { delete(p, id); return nil }

// world is an OpenBao and a person who works with it.
type world struct {
	*testing.T
	store           *openbao.Admin
	cluster, broker place
	now             time.Time
	waiting         func() error // what happens while a command waits
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, cluster: place{}, broker: place{}, now: time.Now(), waiting: func() error { return nil }}
	s, err := server.Start(t.Context(), server.Options{})
	w.must(err)
	t.Cleanup(s.Stop)
	bao, err := s.Fleet(t.Context())
	w.must(err)
	token, err := bao.Person(t.Context())
	w.must(err)
	t.Setenv("BAO_TOKEN", token)
	w.store, err = openbao.NewAdmin(bao.Address(), "fleet")
	w.must(err)
	t.Cleanup(w.store.Close)
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
		Store: w.store, Cluster: w.cluster, Broker: w.broker,
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
	p := *w.records(id).Policy
	p.NKey = key
	w.must(w.store.PutPolicy(w.Context(), id, p, 1))
	w.must(w.store.DropEnrolment(w.Context(), id))
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
			return w.store.PutRevocation(w.Context(), "pi-1", policy.Revocation{Reason: "lost"}, 0)
		}, []string{`it is revoked (reason "lost")`, "re-enroll pi-1"}},
		"half removed": {func(w *world) error {
			return w.store.PutEnrolment(w.Context(), "pi-1", policy.NewToken("pi-1").Enrolment(w.now))
		}, []string{"an enrolment is left over", "remove pi-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.must(c.prepare(w))
			before := w.records("pi-1")
			ticket, err := w.registry().Enrol(t.Context(), request("pi-1"))
			if c.want == nil {
				w.must(err)
				r := w.records("pi-1")
				if !r.Policy.Allows("site", "berlin") || r.Enrolment.Admits(ticket.Token, w.now) != nil || !r.Enrolment.Expires.Equal(ticket.Expires) {
					t.Errorf("the store has %+v", r)
				}
				return
			}
			if err == nil {
				t.Fatal("the id was given out")
			}
			for _, words := range c.want {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("%v; want %q in it", err, words)
				}
			}
			if after := w.records("pi-1"); after.Version != before.Version {
				t.Error("the policy was written")
			}
		})
	}
}

// TestEnrolRace: of people who enrol the same id at once one gets a command, and
// that one works.
func TestEnrolRace(t *testing.T) {
	w := newWorld(t)
	var racing sync.WaitGroup
	tickets, failures := make([]enrol.Ticket, 8), make([]error, 8)
	for i := range tickets {
		r := w.registry()
		racing.Go(func() { tickets[i], failures[i] = r.Enrol(t.Context(), request("pi-1")) })
	}
	racing.Wait()
	won := 0
	for i, err := range failures {
		if err != nil {
			continue
		}
		won++
		if err := w.records("pi-1").Enrolment.Admits(tickets[i].Token, w.now); err != nil {
			t.Errorf("the command of the one who won: %v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d got a command: %v", won, failures)
	}
}

// TestRenew: nobody is let in by the old key or token from the moment on, and while
// those are cut off who were let in before; then by the new token alone. What is
// not asked for stays.
func TestRenew(t *testing.T) {
	w := newWorld(t)
	w.enrolled("pi-1")
	waited := false
	w.waiting = func() error {
		waited = true
		if r := w.records("pi-1"); r.Revocation == nil || r.Policy.NKey != "" || r.Enrolment != nil {
			t.Errorf("while they are cut off the store has %+v, %+v", r.Policy, r)
		}
		return nil
	}
	ticket, err := w.registry().Renew(t.Context(), enrol.Request{Device: "pi-1", ValidFor: time.Hour, Policy: policy.Policy{Sources: []string{"192.0.2.0/24"}}})
	w.must(err)
	r := w.records("pi-1")
	if !waited || r.Revocation != nil || r.Policy.NKey != "" || !r.Policy.Allows("site", "berlin") || !r.Policy.From("192.0.2.1") || r.Policy.From("198.51.100.1") {
		t.Errorf("waited %v; the store has %+v, %+v", waited, r.Policy, r.Revocation)
	}
	w.must(r.Enrolment.Admits(ticket.Token, w.now))
	again, err := w.registry().Renew(t.Context(), enrol.Request{Device: "pi-1", ValidFor: time.Hour})
	w.must(err)
	if err := w.records("pi-1").Enrolment.Admits(ticket.Token, w.now); !errors.Is(err, policy.ErrToken) {
		t.Errorf("the earlier token: %v", err)
	}
	w.must(w.records("pi-1").Enrolment.Admits(again.Token, w.now))
	if _, err := w.registry().Renew(t.Context(), request("pi-2")); err == nil || !strings.Contains(err.Error(), "kubectl fleet enroll pi-2") {
		t.Errorf("a device that is not enrolled: %v", err)
	}
}

// TestRenewInterrupted: who is interrupted leaves the device out, and begins again.
func TestRenewInterrupted(t *testing.T) {
	w := newWorld(t)
	w.enrolled("pi-1")
	w.waiting = func() error { return context.Canceled }
	if _, err := w.registry().Renew(t.Context(), request("pi-1")); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "stays revoked") {
		t.Errorf("got %v", err)
	}
	if r := w.records("pi-1"); r.Revocation == nil || r.Policy.NKey != "" {
		t.Errorf("the store has %+v, %+v", r.Policy, r.Revocation)
	}
	w.waiting = func() error { return nil }
	_, err := w.registry().Renew(t.Context(), request("pi-1"))
	w.must(err)
	if r := w.records("pi-1"); r.Revocation != nil || r.Enrolment == nil {
		t.Errorf("the store has %+v", r)
	}
}

// TestRevokeWins: a revocation that comes while the device is given another key is
// not undone by that.
func TestRevokeWins(t *testing.T) {
	w := newWorld(t)
	w.enrolled("pi-1")
	w.waiting = func() error {
		_, err := w.registry().Revoke(t.Context(), "pi-1", "stolen")
		return err
	}
	if _, err := w.registry().Renew(t.Context(), request("pi-1")); err == nil || !strings.Contains(err.Error(), `stays revoked, because somebody revoked it meanwhile`) {
		t.Errorf("got %v", err)
	}
	if r := w.records("pi-1"); r.Revocation == nil || r.Revocation.Reason != "stolen" || r.Enrolment != nil {
		t.Errorf("the store has %+v", r)
	}
}

// TestRevoke: it withdraws the token too, and the first reason stays.
func TestRevoke(t *testing.T) {
	w := newWorld(t)
	_, err := w.registry().Enrol(t.Context(), request("pi-1"))
	w.must(err)
	for _, c := range []struct{ reason, already string }{{"lost", ""}, {"other", "lost"}} {
		already, err := w.registry().Revoke(t.Context(), "pi-1", c.reason)
		w.must(err)
		if (already == nil) != (c.already == "") || already != nil && already.Reason != c.already {
			t.Errorf("%s: it was revoked before: %+v", c.reason, already)
		}
	}
	if r := w.records("pi-1"); r.Revocation.Reason != "lost" || r.Enrolment != nil || r.Policy == nil {
		t.Errorf("the store has %+v", r)
	}
	if _, err := w.registry().Revoke(t.Context(), "pi-2", ""); err == nil || !strings.Contains(err.Error(), "is not enrolled") {
		t.Errorf("a device that nobody knows: %v", err)
	}
	_, err = w.registry().Renew(t.Context(), request("pi-1"))
	w.must(err)
	if r := w.records("pi-1"); r.Revocation != nil {
		t.Errorf("it is still revoked: %s", r.Revocation)
	}
}

// TestRemove: the device stays out until nobody knows anything of it, and then the
// id is free.
func TestRemove(t *testing.T) {
	w := newWorld(t)
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
			t.Error("it is let in before it is forgotten")
		}
		return nil
	}
	w.must(w.registry().Remove(t.Context(), "pi-1"))
	if r := w.records("pi-1"); waits < 5 || r.Policy != nil || r.Enrolment != nil || r.Revocation != nil || w.cluster["pi-1"] {
		t.Errorf("after %d waits there is %+v, %v", waits, r, w.cluster)
	}
	if err := w.registry().Remove(t.Context(), "pi-1"); err == nil || !strings.Contains(err.Error(), "there is nothing to remove") {
		t.Errorf("again: %v", err)
	}
	w.must(func() error { _, err := w.registry().Enrol(t.Context(), request("pi-1")); return err }())
}

// TestRemoveInterrupted: it stays out, and the next time goes on; also for one that
// the cluster alone knows.
func TestRemoveInterrupted(t *testing.T) {
	w := newWorld(t)
	w.cluster["pi-1"], w.broker["pi-1"] = true, true
	w.waiting = func() error {
		if w.cluster["pi-1"] {
			return nil
		}
		return context.Canceled
	}
	if err := w.registry().Remove(t.Context(), "pi-1"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if w.records("pi-1").Revocation == nil {
		t.Error("it is let in")
	}
	delete(w.broker, "pi-1")
	w.must(w.registry().Remove(t.Context(), "pi-1"))
	if r := w.records("pi-1"); r.Revocation != nil || r.Policy != nil {
		t.Errorf("there is %+v", r)
	}
}
