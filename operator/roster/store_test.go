package roster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/access"
	"github.com/nationtech/harmony-fleet/smoke/kube"
)

func TestMain(m *testing.M) {
	klog.SetLogger(logr.Discard())
	os.Exit(kube.RunTests(m))
}

// world is a cluster with a person who enrols devices and a callout, each with the
// rights that are documented for them.
type world struct {
	testing.TB
	plane   *kube.ControlPlane
	person  *Admin
	callout *rest.Config
	skew    atomic.Int64 // added to the stores' clock, in nanoseconds
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{TB: t, plane: kube.Shared(t)}
	w.must(kube.InstallCRDs(t.Context(), w.plane.Config(), crds.All()))
	for _, role := range access.ClusterRoles() {
		if role.Name == access.Enroll {
			config, _, err := w.plane.Account(t.Context(), t.TempDir(), "person", role.Rules)
			w.must(err)
			w.person, err = NewAdmin(config)
			w.must(err)
			t.Cleanup(w.person.Close)
		}
	}
	var err error
	w.callout, _, err = w.plane.Account(t.Context(), t.TempDir(), "callout", CalloutRules())
	w.must(err)
	root, err := newClient(w.plane.Config())
	w.must(err)
	w.eventually("roles count, and nothing is left of other tests", func() error {
		if _, err := w.person.Records(t.Context(), "nobody"); err != nil {
			return err
		}
		return root.rest.Delete().Resource(resource).Body(&metav1.DeleteOptions{}).Do(t.Context()).Error()
	})
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) eventually(what string, check func() error) {
	w.Helper()
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			w.Fatalf("%s: %v", what, err)
		}
	}
}

// replica is a Store at work; those who were cut off are in cut.
type replica struct {
	*Store
	mu  sync.Mutex
	cut map[wire.DeviceID]int
}

func (w *world) start() *replica {
	w.Helper()
	section := config.RosterDefaults()
	section.MaxStale = config.Duration(time.Hour)
	s, err := New(Options{Kube: w.callout, Config: section, Log: logr.Discard(), Now: func() time.Time { return time.Now().Add(time.Duration(w.skew.Load())) }})
	w.must(err)
	r := &replica{Store: s, cut: map[wire.DeviceID]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		s.Run(ctx, func(ids []wire.DeviceID) {
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, id := range ids {
				r.cut[id]++
			}
		})
	})
	w.Cleanup(func() { cancel(); running.Wait(); s.Close() })
	return r
}

func (w *world) ready() *replica {
	w.Helper()
	r := w.start()
	w.eventually("it is ready", r.Ready)
	return r
}

// hears waits until the replica decides so of the device.
func (w *world) hears(r *replica, id wire.DeviceID, key string, want error) {
	w.Helper()
	w.eventually("the replica hears", func() error {
		p, err := r.Policy(w.Context(), id)
		if !errors.Is(err, want) || err == nil && p.NKey != key {
			return fmt.Errorf("%s: %+v, %w", id, p, err)
		}
		return nil
	})
}

func (w *world) cutOff(r *replica, id wire.DeviceID, times int) {
	w.Helper()
	w.eventually("it is cut off", func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.cut[id] != times {
			return fmt.Errorf("%d times, want %d", r.cut[id], times)
		}
		return nil
	})
}

// invite writes a policy and a token.
func (w *world) invite(id wire.DeviceID) {
	w.Helper()
	w.must(w.person.PutPolicy(w.Context(), id, policy.Policy{Labels: map[string][]string{"site": {"berlin"}}}, w.records(id).Version))
	w.must(w.person.PutEnrolment(w.Context(), id, policy.NewToken(id).Enrolment(time.Now().Add(time.Hour))))
}

func (w *world) records(id wire.DeviceID) policy.Records {
	w.Helper()
	r, err := w.person.Records(w.Context(), id)
	w.must(err)
	return r
}

// join has a replica write the key.
func (w *world) join(r *replica, id wire.DeviceID, key string) error {
	w.Helper()
	seen, err := r.Records(w.Context(), id)
	w.must(err)
	return r.Admit(w.Context(), id, key, seen)
}

// TestLife: enrolled, joined, revoked, enrolled anew, removed; every replica hears
// of each step and cuts off whoever may no longer be there.
func TestLife(t *testing.T) {
	w := newWorld(t)
	one, two := w.ready(), w.ready()
	w.invite("pi-1")
	w.hears(two, "pi-1", "", nil)
	w.must(w.join(one, "pi-1", key))
	if p, err := two.Recent(t.Context(), "pi-1"); err != nil || p.NKey != key {
		t.Errorf("asked at once: %+v, %v", p, err)
	}
	w.hears(two, "pi-1", key, nil)
	if r := w.records("pi-1"); r.Enrolment != nil || r.Policy.NKey != key || !r.Policy.Allows("site", "berlin") {
		t.Errorf("the records are %+v, %+v", r, r.Policy)
	}
	w.must(w.person.DropEnrolment(t.Context(), "pi-1")) // of no use to anybody: the key stays
	if r := w.records("pi-1"); r.Policy.NKey != key {
		t.Error("its key is gone with its token")
	}
	at := time.Now().UTC().Truncate(time.Microsecond)
	revocation := policy.Revocation{Reason: "lost", By: w.person.Who(t.Context()), At: at, Passing: true}
	w.must(w.person.PutRevocation(t.Context(), "pi-1", revocation, w.records("pi-1").RevocationVersion))
	for _, r := range []*replica{one, two} {
		w.hears(r, "pi-1", "", policy.ErrRevoked)
		w.cutOff(r, "pi-1", 1)
	}
	r := w.records("pi-1")
	if *r.Revocation != revocation || !strings.HasPrefix(r.Revocation.By, "system:serviceaccount:default:person-") {
		t.Errorf("the revocation is %+v, want %+v", r.Revocation, revocation)
	}
	w.must(w.person.PutPolicy(t.Context(), "pi-1", policy.Policy{}, r.Version))
	w.must(w.person.DropRevocation(t.Context(), "pi-1"))
	w.must(w.person.PutEnrolment(t.Context(), "pi-1", policy.NewToken("pi-1").Enrolment(at)))
	w.hears(two, "pi-1", "", nil)
	w.must(w.join(two, "pi-1", other))
	w.hears(one, "pi-1", other, nil)

	w.must(w.person.DestroyPolicy(t.Context(), "pi-1", w.records("pi-1").Version))
	w.hears(one, "pi-1", "", policy.ErrNone)
	w.cutOff(one, "pi-1", 2)
	if r := w.records("pi-1"); r.Version != "" || r.RevocationVersion != "" {
		t.Errorf("something is left: %+v", r)
	}
}

// TestInheritsNothing: what was read of a device that is removed can be written to
// no other that has its id, by nobody.
func TestInheritsNothing(t *testing.T) {
	w := newWorld(t)
	replica := w.ready()
	w.invite("pi-1")
	callouts, err := replica.Records(t.Context(), "pi-1")
	w.must(err)
	persons := w.records("pi-1")
	w.must(w.person.DestroyPolicy(t.Context(), "pi-1", persons.Version))
	for what, write := range map[string]func() error{
		"the callout, nothing": func() error { return replica.Admit(t.Context(), "pi-1", key, callouts) },
		"a person, nothing": func() error {
			return w.person.PutPolicy(t.Context(), "pi-1", policy.Policy{}, persons.Version)
		},
	} {
		if err := write(); !errors.Is(err, policy.ErrChanged) {
			t.Errorf("written by %s: %v", what, err)
		}
	}
	w.invite("pi-1")
	for what, err := range map[string]error{
		"a key":             replica.Admit(t.Context(), "pi-1", key, callouts),
		"a policy":          w.person.PutPolicy(t.Context(), "pi-1", policy.Policy{}, persons.Version),
		"the removal":       w.person.DestroyPolicy(t.Context(), "pi-1", persons.Version),
		"a first policy":    w.person.PutPolicy(t.Context(), "pi-1", policy.Policy{}, ""),
		"a second token":    w.person.PutEnrolment(t.Context(), "pi-1", policy.NewToken("pi-1").Enrolment(time.Now())),
		"a late revocation": w.person.PutRevocation(t.Context(), "pi-1", policy.Revocation{}, persons.RevocationVersion),
	} {
		if !errors.Is(err, policy.ErrChanged) {
			t.Errorf("%s of the one before was written: %v", what, err)
		}
	}
	if r := w.records("pi-1"); r.Policy.NKey != "" || r.Enrolment == nil || r.Revocation != nil {
		t.Errorf("the records are %+v, %+v", r, r.Policy)
	}
}

// TestJoinRace: of many that bring one token to two replicas at the same time one
// gets its key written.
func TestJoinRace(t *testing.T) {
	w := newWorld(t)
	one, two := w.ready(), w.ready()
	w.invite("pi-1")
	seen, err := one.Records(t.Context(), "pi-1")
	w.must(err)
	keys := make([]string, 8)
	won := make([]error, len(keys))
	var racing sync.WaitGroup
	for i := range keys {
		keys[i] = key[:20] + string(rune('A'+i)) + key[21:]
		racing.Go(func() { won[i] = []*replica{one, two}[i%2].Admit(t.Context(), "pi-1", keys[i], seen) })
	}
	racing.Wait()
	winners := 0
	for i, err := range won {
		if err == nil {
			winners++
			o, err := w.person.client.get(t.Context(), "pi-1")
			w.must(err)
			if o.Status.NKey != keys[i] {
				t.Error("one was told yes, and another's key is written")
			}
		} else if !errors.Is(err, policy.ErrChanged) {
			t.Error(err)
		}
	}
	if winners != 1 {
		t.Errorf("%d won: %v", winners, won)
	}
}

// TestOutage: with the API server away known devices come back for as long as
// maxStale says, and a replica that starts meanwhile lets nobody in.
func TestOutage(t *testing.T) {
	w := newWorld(t)
	replica := w.ready()
	w.invite("pi-1")
	w.must(w.join(replica, "pi-1", key))
	w.hears(replica, "pi-1", key, nil)
	w.must(w.plane.StopAPIServer())
	late := w.start()
	if p, err := replica.Policy(t.Context(), "pi-1"); err != nil || p.NKey != key {
		t.Errorf("a known device: %+v, %v", p, err)
	}
	if p, err := replica.Recent(t.Context(), "pi-1"); err != nil || p.NKey != key {
		t.Errorf("a known device, asked at once: %+v, %v", p, err)
	}
	if _, err := replica.Records(t.Context(), "pi-1"); err == nil {
		t.Error("there are records without a store")
	}
	if _, err := replica.Policy(t.Context(), "pi-2"); !errors.Is(err, policy.ErrNone) {
		t.Errorf("an unknown one: %v", err)
	}
	w.eventually("the late one says what is wrong", func() error {
		if err := late.Ready(); err == nil || !strings.Contains(err.Error(), "refused") {
			return fmt.Errorf("it says %w", err)
		}
		return nil
	})
	if _, err := late.Policy(t.Context(), "pi-1"); err == nil || errors.Is(err, policy.ErrNone) {
		t.Errorf("the late one: %v", err)
	}
	w.skew.Store(int64(61 * time.Minute))
	if _, err := replica.Policy(t.Context(), "pi-1"); err == nil || !strings.Contains(err.Error(), "longer than maxStale") {
		t.Errorf("after maxStale: %v", err)
	}
	w.must(w.plane.StartAPIServer(t.Context()))
	w.hears(replica, "pi-1", key, nil)
	w.hears(late, "pi-1", key, nil)
	w.must(w.person.PutRevocation(t.Context(), "pi-1", policy.Revocation{}, w.records("pi-1").RevocationVersion))
	w.hears(replica, "pi-1", "", policy.ErrRevoked)
	w.cutOff(replica, "pi-1", 1)
}

// TestCalloutCannotDecide: a callout that was taken over, with its rights at the
// API server and no manners.
func TestCalloutCannotDecide(t *testing.T) {
	w := newWorld(t)
	w.invite("pi-1")
	w.must(w.join(w.ready(), "pi-1", key))
	w.must(w.person.PutRevocation(t.Context(), "pi-1", policy.Revocation{Reason: "lost"}, w.records("pi-1").RevocationVersion))
	w.invite("pi-2")
	thief, err := newClient(w.callout)
	w.must(err)
	t.Cleanup(thief.close)
	before, err := thief.get(t.Context(), "pi-1")
	w.must(err)
	path := "/apis/fleet.nationtech.io/v1alpha1/devicepolicies"
	free := `{"metadata":{"name":"pi-1"},"spec":{"revocation":null}}`
	for what, r := range map[string]*rest.Request{
		"enrols a device":        thief.rest.Post().AbsPath(path).Body([]byte(`{"apiVersion":"fleet.nationtech.io/v1alpha1","kind":"DevicePolicy","metadata":{"name":"pi-9"},"spec":{"allow":{}}}`)),
		"ends a revocation":      thief.rest.Patch("application/merge-patch+json").AbsPath(path + "/pi-1").Body([]byte(free)),
		"applies":                thief.rest.Patch("application/apply-patch+yaml").AbsPath(path+"/pi-1").Param("fieldManager", "x").Body([]byte(free)),
		"patches by the status":  thief.rest.Patch("application/merge-patch+json").AbsPath(path + "/pi-1/status").Body([]byte(free)),
		"deletes a policy":       thief.rest.Delete().AbsPath(path + "/pi-1"),
		"deletes all":            thief.rest.Delete().AbsPath(path),
		"reads the signing keys": thief.rest.Get().AbsPath("/api/v1/namespaces/default/secrets"),
		"reads configurations":   thief.rest.Get().AbsPath("/api/v1/namespaces/default/configmaps"),
		"labels a Device":        thief.rest.Patch("application/merge-patch+json").AbsPath("/apis/fleet.nationtech.io/v1alpha1/devices/pi-1").Body([]byte(`{}`)),
	} {
		if err := r.Do(t.Context()).Error(); !apierrors.IsForbidden(err) {
			t.Errorf("it %s: %v", what, err)
		}
	}
	replaced := before.DeepCopy()
	replaced.Spec = v1alpha1.DevicePolicySpec{Allow: &v1alpha1.DeviceAllowance{}, Enrolment: before.Spec.Enrolment}
	if err := thief.put(t.Context(), "", replaced); err == nil {
		t.Error("it replaced a policy")
	}
	// By the status it may write the rest of the object, which the API server ignores.
	replaced.Labels = map[string]string{"mine": "yes"}
	w.must(thief.put(t.Context(), "status", replaced))
	after, err := thief.get(t.Context(), "pi-1")
	w.must(err)
	if after.Spec.Revocation == nil || len(after.Spec.Allow.Labels) == 0 || after.Labels != nil {
		t.Errorf("by the status it wrote %+v", after)
	}
	// A key that is there stays: neither at once nor by way of another token.
	for what, status := range map[string]v1alpha1.DevicePolicyStatus{
		"a key":         {NKey: other, Enrolment: after.Status.Enrolment},
		"another token": {NKey: key, Enrolment: strings.Repeat("0", 64)},
		"nothing":       {},
	} {
		forged := after.DeepCopy()
		forged.Status = status
		if err := thief.put(t.Context(), "status", forged); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "the token of enrolment was used") {
			t.Errorf("it wrote %s over the key of a device: %v", what, err)
		}
	}
}
