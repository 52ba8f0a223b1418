package operator_test

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/kube"
)

// departedTick is how often the operator asks after deleted devices.
const departedTick = time.Second

// answer is an HTTP answer made up by a test.
func answer(q *http.Request, code int, contentType, body string) *http.Response {
	return &http.Response{
		StatusCode: code, Status: http.StatusText(code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: q,
		Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(strings.NewReader(body)),
	}
}

// TestMissingBucket: the operator is not ready, says which stream is missing, and
// starts to work when it is there.
func TestMissingBucket(t *testing.T) {
	b, err := broker.Start(t.Context(), broker.Options{Shape: func(c *jetstream.StreamConfig) bool { return c.Name != wire.DeviceStates.Stream() }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	w := newWorldWith(t, b)
	r := w.start()
	r.waitLog("device-state")
	if err := r.readiness(); err == nil || !strings.Contains(err.Error(), "broker") {
		t.Errorf("readiness is %v, want it to fail for the broker", err)
	}
	if r.metric("fleet_nats_connected", "") != 1 || r.metric("fleet_nats_fit", "") != 0 || r.metric("fleet_converged", "") != 0 {
		t.Error("the metrics do not tell that the broker is unfit")
	}
	_, err = w.js.CreateStream(t.Context(), bus.StreamConfig(wire.DeviceStates))
	w.must(err)
	r.waitLog("msg=converged")
	w.eventually("ready", r.readiness)
}

// TestSchemaMismatch: a definition that somebody has changed keeps the operator from
// working, until it is put right.
func TestSchemaMismatch(t *testing.T) {
	w := newWorld(t)
	w.announce("pi-1", map[string]string{"group": "a"})
	other := crds.Devices()
	other.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["more"] = apiextensionsv1.JSONSchemaProps{Type: "string"}
	w.must(kube.InstallCRDs(t.Context(), w.plane.Config(), append(crds.All()[:1:1], other)))
	defer func() { w.must(kube.InstallCRDs(t.Context(), w.plane.Config(), crds.All())) }()
	r := w.start()
	r.waitLog("has been changed")
	r.waitLog(crds.SchemaHash(crds.Devices()))
	w.never("writes to a cluster with another definition", time.Second, func() error {
		if writes := r.traffic.find("write", ""); len(writes) > 0 {
			return fmt.Errorf("%+v", writes)
		}
		if err := r.readiness(); err == nil {
			return errors.New("it is ready")
		} else if !strings.Contains(err.Error(), "schema") {
			return fmt.Errorf("it is not ready, but not for the schema: %w", err)
		}
		return nil
	})
	w.must(kube.InstallCRDs(t.Context(), w.plane.Config(), crds.All()))
	r.waitLog("msg=converged")
	w.eventually("the Device", func() error { return w.api.Get(t.Context(), client.ObjectKey{Name: "pi-1"}, &v1alpha1.Device{}) })
	w.eventually("ready", r.readiness)
}

// TestWrongPassword does not heal by itself: Run fails and says so.
func TestWrongPassword(t *testing.T) {
	w := newWorld(t)
	r := w.start(func(r *running) { r.config.Credentials.Password = "wrong" })
	select {
	case <-r.done:
	case <-time.After(patience):
		t.Fatal("the operator goes on with a wrong password")
	}
	if r.err == nil || !strings.Contains(r.err.Error(), "password") {
		t.Errorf("got error %v, want one about the password", r.err)
	}
}

// TestPoison: what cannot be read is counted, logged once and skipped, and moves
// nothing.
func TestPoison(t *testing.T) {
	w := newWorld(t)
	r := w.startConverged()
	w.announce("pi-1", map[string]string{"group": "a"})
	d := deployment(w.namespace(), "web", "a")
	w.must(w.api.Create(t.Context(), d))
	w.awaitDesired("pi-1", d)
	w.report("pi-1", idOf(d), wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running", Digest: digestOf(t, d.Spec.Score)})
	ready := func(s v1alpha1.DeploymentStatus) bool { return s.Aggregate.Succeeded == 1 }
	w.awaitStatus(d, "ready", ready)

	key := wire.DeploymentKey("pi-1", idOf(d))
	for n := range 3 {
		w.put(wire.DeviceStates, key, []byte(`{"phase":"Failed","digest":7}`))
		// The stream keeps one message of a key: the next one may replace one that
		// was not yet delivered.
		w.eventually("the unreadable state is counted", func() error { return r.poisonous("device-state", n+1) })
	}
	for _, raw := range []string{"pi-1.\x00.web", "pi-1.\xff\xfe.web", "A.b.c", "pi-1", "pi-1.a.b.c", "pi-1." + strings.Repeat("x", 64) + ".web"} {
		w.put(wire.DeviceStates, raw, []byte("{}"))
		w.put(wire.DeviceInfos, raw, []byte("{"))
		w.put(wire.DeviceHeartbeats, raw, []byte("{"))
	}
	w.put(wire.DeviceInfos, "pi-2", []byte("[1,2]"))
	w.put(wire.DeviceHeartbeats, "pi-2", []byte(`{"session":"zzzzzzzz","generation":-1}`))
	// All readers go on after it.
	w.announce("pi-3", map[string]string{"group": "a"})
	w.awaitDesired("pi-3", d)
	w.report("pi-3", idOf(d), wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running", Digest: digestOf(t, d.Spec.Score)})
	w.awaitStatus(d, "both", func(s v1alpha1.DeploymentStatus) bool {
		return s.Aggregate == v1alpha1.Aggregate{MatchedDeviceCount: 2, Succeeded: 2}
	})
	for bucket, want := range map[string]int{"device-state": 9, "device-info": 7, "device-heartbeat": 7} {
		w.eventually("counted", func() error { return r.poisonous(bucket, want) })
	}
	if n := r.logs.count("bucket=device-state key=" + key); n != 1 {
		t.Errorf("the unreadable state is logged %d times, want once", n)
	}
}

// poisonous checks how many entries of a bucket were counted as unreadable.
func (r *running) poisonous(bucket string, want int) error {
	if got := r.metric("fleet_poison_total", bucket); got != float64(want) {
		return fmt.Errorf("%s: %v poisonous entries are counted, want %d", bucket, got, want)
	}
	return nil
}

// TestColdRestart: an operator that starts where nothing changed writes nothing.
func TestColdRestart(t *testing.T) {
	w := newWorld(t)
	first := w.startConverged()
	d := w.settle(10, first)
	first.stop()
	before := w.lastSequence(wire.DesiredState)
	r := w.startConverged()
	w.never("writes although nothing changed", 3*time.Second, func() error {
		if writes := r.traffic.find("write", ""); len(writes) > 0 {
			return fmt.Errorf("%+v", writes)
		}
		if now := w.lastSequence(wire.DesiredState); now != before {
			return fmt.Errorf("the bucket went from %d to %d", before, now)
		}
		return nil
	})
	if r.metric("fleet_deployments", "") != float64(len(d)) {
		t.Errorf("it knows %v deployments, want %d", r.metric("fleet_deployments", ""), len(d))
	}
}

// settle makes devices that run two Deployments, and waits until nothing moves.
func (w *world) settle(devices int, r *running) []*v1alpha1.Deployment {
	w.Helper()
	namespace := w.namespace()
	all := []*v1alpha1.Deployment{deployment(namespace, "web", "a"), deployment(namespace, "log", "a")}
	for _, d := range all {
		w.must(w.api.Create(w.Context(), d))
	}
	for i := range devices {
		id := wire.DeviceID(fmt.Sprintf("pi-%d", i))
		w.announce(id, map[string]string{"group": "a", "Odd Key": "x"})
		for _, d := range all {
			w.report(id, idOf(d), wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running", Digest: digestOf(w.T, d.Spec.Score)})
		}
	}
	for _, d := range all {
		w.awaitStatus(d, "ready", func(s v1alpha1.DeploymentStatus) bool { return int(s.Aggregate.Succeeded) == devices })
	}
	for i := range devices {
		w.awaitDesired(wire.DeviceID(fmt.Sprintf("pi-%d", i)), all...)
	}
	w.quiet(r)
	return all
}

// quiet waits until the operator has written nothing for a second and a half.
func (w *world) quiet(r *running) {
	w.Helper()
	w.eventually("quiet", func() error {
		if writes := r.traffic.find("write", ""); len(writes) > 0 && time.Since(writes[len(writes)-1].at) < 1500*time.Millisecond {
			return errors.New("it writes")
		}
		return nil
	})
}

// TestStatusBudget: under a storm of states a Deployment is patched at most once
// a second, and heartbeats cause no request at all.
func TestStatusBudget(t *testing.T) {
	w := newWorld(t)
	r := w.startConverged()
	all := w.settle(10, r)
	start := time.Now()
	digest := digestOf(t, all[0].Spec.Score)
	for i := 0; time.Since(start) < 4*time.Second; i++ {
		phase := []wire.Phase{wire.PhaseFailed, wire.PhaseSucceeded}[i/10%2]
		w.report(wire.DeviceID(fmt.Sprintf("pi-%d", i%10)), idOf(all[0]), wire.DeviceState{Phase: phase, Reason: "Storm", Message: fmt.Sprint(i), Digest: digest})
	}
	w.quiet(r)
	patches := r.traffic.find(http.MethodPatch, all[0].Name+"/status")
	patches = slices.DeleteFunc(patches, func(q request) bool { return q.at.Before(start) })
	if len(patches) < 3 {
		t.Fatalf("%d patches of a status that moved for 4 s", len(patches))
	}
	// The core spaces the patches by a second, and each is sent some time after it
	// was decided on, so that two may be sent close together, and no more in all.
	if most := 1 + int(patches[len(patches)-1].at.Sub(start)/time.Second); len(patches) > most {
		t.Errorf("%d patches within %v", len(patches), patches[len(patches)-1].at.Sub(start))
	}

	settled := time.Now()
	for i := range 1000 {
		w.heartbeat(wire.DeviceID(fmt.Sprintf("pi-%d", i%10)))
	}
	time.Sleep(2 * time.Second)
	for _, q := range r.traffic.find("write", "") {
		if q.at.After(settled) {
			t.Errorf("a heartbeat caused %s %s", q.method, q.path)
		}
	}
}

// TestReachable: a device that falls silent and one that comes back are written
// once each.
func TestReachable(t *testing.T) {
	w := newWorld(t)
	r := w.startConverged()
	all := w.settle(3, r)
	is := func(reason string) func() error {
		return func() error {
			device := &v1alpha1.Device{}
			w.must(w.api.Get(t.Context(), client.ObjectKey{Name: "pi-1"}, device))
			if got := condition(device.Status.Conditions, v1alpha1.ConditionReachable); got.Reason != reason {
				return fmt.Errorf("it is %+v", got)
			}
			return nil
		}
	}
	before := len(r.traffic.find(http.MethodPatch, "/devices/pi-1/status"))
	r.skew.Store(int64(2 * wire.HeartbeatTimeout))
	w.eventually("silent", is(v1alpha1.ReasonHeartbeatMissed))
	w.awaitStatus(all[0], "unreachable", func(s v1alpha1.DeploymentStatus) bool { return s.Aggregate.Unreachable == 3 })
	w.quiet(r)
	r.skew.Store(0)
	w.heartbeat("pi-1")
	w.eventually("back", is(v1alpha1.ReasonHeartbeat))
	w.quiet(r)
	if n := len(r.traffic.find(http.MethodPatch, "/devices/pi-1/status")) - before; n != 2 {
		t.Errorf("%d patches for two transitions", n)
	}
}

// TestTwoAgents with one device id: the Device says so, in an event and once in the
// log too, and nothing of it is lost.
func TestTwoAgents(t *testing.T) {
	w := newWorld(t)
	r := w.startConverged()
	all := w.settle(1, r)
	device := &v1alpha1.Device{}
	beats := 0
	w.eventually("the conflict", func() error {
		beat, err := wire.Heartbeat{Session: []string{"0000000a", "0000000b"}[beats%2]}.Encode()
		w.must(err)
		w.put(wire.DeviceHeartbeats, "pi-0", beat)
		beats++
		w.must(w.api.Get(t.Context(), client.ObjectKey{Name: "pi-0"}, device))
		if c := condition(device.Status.Conditions, v1alpha1.ConditionIdentityConflict); c.Status != metav1.ConditionTrue {
			return fmt.Errorf("the condition is %+v", c)
		}
		return nil
	})
	w.awaitEvent(device, v1alpha1.ReasonTwoAgents, "give one of them another")
	w.awaitDesired("pi-0", all...)
	for i := range 20 {
		beat, err := wire.Heartbeat{Session: []string{"0000000a", "0000000b"}[i%2], Twin: []wire.TwinRole{wire.TwinReports, wire.TwinStandsBy}[i%2]}.Encode()
		w.must(err)
		w.put(wire.DeviceHeartbeats, "pi-0", beat)
	}
	w.quiet(r)
	if n := r.logs.count("a device needs a person"); n != 1 {
		t.Errorf("the log says it %d times, want once", n)
	}
}

// TestBrokerIsAwayForLong: that nothing can be heard says nothing of the devices,
// and they have the whole time to be heard afterwards.
func TestBrokerIsAwayForLong(t *testing.T) {
	w, p := newWorldProcess(t)
	r := w.startConverged()
	all := w.settle(3, r)
	unreachable := func() error {
		d := &v1alpha1.Deployment{}
		w.must(w.api.Get(t.Context(), client.ObjectKeyFromObject(all[0]), d))
		if n := d.Status.Aggregate.Unreachable; n > 0 {
			return fmt.Errorf("%d devices are unreachable", n)
		}
		return nil
	}
	connected := func(want float64) func() error {
		return func() error {
			if got := r.metric("fleet_nats_connected", ""); got != want {
				return fmt.Errorf("fleet_nats_connected is %v", got)
			}
			return nil
		}
	}
	p.Kill()
	w.eventually("disconnected", connected(0))
	r.skew.Store(int64(2 * wire.HeartbeatTimeout))
	w.never("judges what it cannot hear", 2*time.Second, unreachable)
	w.must(p.Restart(t.Context()))
	w.eventually("connected", connected(1))
	w.never("gives no time to be heard", 2*time.Second, unreachable)
	r.skew.Store(int64(4 * wire.HeartbeatTimeout))
	w.awaitStatus(all[0], "unreachable", func(s v1alpha1.DeploymentStatus) bool { return s.Aggregate.Unreachable == 3 })
}

// TestBrokerLosesItsStore: what was lost is written again, above the generation
// that the devices hold.
func TestBrokerLosesItsStore(t *testing.T) {
	w := newWorld(t)
	r := w.startConverged()
	all := w.settle(5, r)
	held := w.manifest("pi-1").Generation
	beat, err := wire.Heartbeat{Session: "00000004", Generation: held}.Encode()
	w.must(err)
	w.put(wire.DeviceHeartbeats, "pi-1", beat)
	w.must(w.js.DeleteStream(t.Context(), wire.DesiredState.Stream()))
	_, err = w.js.CreateStream(t.Context(), bus.StreamConfig(wire.DesiredState))
	w.must(err)
	w.must(w.broker.Restart(t.Context()))
	for i := range 5 {
		w.awaitDesired(wire.DeviceID(fmt.Sprintf("pi-%d", i)), all...)
	}
	if m := w.manifest("pi-1"); m.Generation <= held {
		t.Errorf("the manifest has generation %d, and the device holds %d", m.Generation, held)
	}
}

// TestLateWrites: what an operator that is gone had sent arrives after its successor
// has read the store. It is found without waiting for an audit.
func TestLateWrites(t *testing.T) {
	w := newWorld(t)
	r := w.startConverged()
	all := w.settle(2, r)
	late := w.get(wire.DesiredState, wire.DeviceKey("pi-1"))
	gone := deployment(all[0].Namespace, "gone", "a")
	d := deployment(all[0].Namespace, "late", "a")
	w.must(w.api.Create(t.Context(), d))
	w.awaitDesired("pi-1", append(all, d)...)
	w.put(wire.DesiredState, wire.DeviceKey("pi-1"), late)
	w.put(wire.DesiredState, wire.DeploymentKey("pi-1", idOf(gone)), []byte("{}"))
	w.awaitDesired("pi-1", append(all, d)...)
	w.eventually("the key of nothing is removed", func() error {
		if w.get(wire.DesiredState, wire.DeploymentKey("pi-1", idOf(gone))) != nil {
			return errors.New("it is there")
		}
		return nil
	})
	if n := r.metric("fleet_audit_differences_total", ""); n != 0 {
		t.Errorf("audits found %v differences", n)
	}
}

// TestAudit: what somebody else removed from the store is found and written again.
func TestAudit(t *testing.T) {
	w := newWorld(t)
	r := w.startConverged(func(r *running) { r.config.AuditInterval = config.Duration(time.Second) })
	all := w.settle(3, r)
	if n := r.metric("fleet_audit_differences_total", ""); n != 0 {
		t.Errorf("audits found %v differences where there are none\n%s", n, r.logs)
	}
	stream, err := w.js.Stream(t.Context(), wire.DesiredState.Stream())
	w.must(err)
	w.must(stream.Purge(t.Context(), jetstream.WithPurgeSubject(wire.DesiredState.Subject(wire.DeploymentKey("pi-1", idOf(all[0]))))))
	w.awaitDesired("pi-1", all...)
	w.eventually("the difference is counted", func() error {
		if n := r.metric("fleet_audit_differences_total", ""); n != 1 {
			return fmt.Errorf("%v are", n)
		}
		return nil
	})
}

// TestBrokerIsKilled under load: everything arrives in the end.
func TestBrokerIsKilled(t *testing.T) {
	w, p := newWorldProcess(t)
	w.startConverged()
	namespace := w.namespace()
	for i := range 50 {
		w.announce(wire.DeviceID(fmt.Sprintf("pi-%d", i)), map[string]string{"group": "a"})
	}
	var all []*v1alpha1.Deployment
	var restarts sync.WaitGroup
	restarts.Go(func() {
		for range 3 {
			time.Sleep(300 * time.Millisecond)
			p.Kill()
			time.Sleep(200 * time.Millisecond)
			if err := p.Restart(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range 20 {
		d := deployment(namespace, fmt.Sprintf("web-%d", i), "a")
		w.must(w.api.Create(t.Context(), d))
		all = append(all, d)
		time.Sleep(100 * time.Millisecond)
	}
	restarts.Wait()
	for i := range 50 {
		w.awaitDesired(wire.DeviceID(fmt.Sprintf("pi-%d", i)), all...)
	}
}

// TestAPIServerIsGone: the operator lives through it and catches up.
func TestAPIServerIsGone(t *testing.T) {
	w := newWorld(t)
	r := w.startConverged(func(r *running) { r.apiRestarts = true })
	all := w.settle(3, r)
	w.must(w.plane.StopAPIServer())
	w.announce("pi-9", map[string]string{"group": "a"})
	w.report("pi-1", idOf(all[0]), wire.DeviceState{Phase: wire.PhaseFailed, Reason: "CrashLoop", Digest: digestOf(t, all[0].Spec.Score)})
	time.Sleep(15 * time.Second)
	w.must(w.plane.StartAPIServer(t.Context()))
	w.awaitDesired("pi-9", all...)
	w.awaitStatus(all[0], "caught up", func(s v1alpha1.DeploymentStatus) bool {
		return s.Aggregate.MatchedDeviceCount == 4 && s.Aggregate.Failed == 1
	})
	d := deployment(w.namespace(), "late", "a")
	w.must(w.api.Create(t.Context(), d))
	w.awaitDesired("pi-9", append(all, d)...)
	select {
	case <-r.done:
		t.Errorf("the operator ended: %v", r.err)
	default:
	}
}

// TestTwoOperators: only the leader writes, and the other takes over.
func TestTwoOperators(t *testing.T) {
	w := newWorld(t)
	elect := func(r *running) {
		r.config.LeaderElection = config.LeaderElection{Enabled: true, Namespace: operatorNamespace}
	}
	leader := w.startConverged(elect)
	standby := w.start(elect)
	w.announce("pi-1", map[string]string{"group": "a"})
	d := deployment(w.namespace(), "web", "a")
	w.must(w.api.Create(t.Context(), d))
	w.awaitDesired("pi-1", d)
	w.eventually("the standby is ready", standby.readiness)
	if writes := standby.traffic.find("write", v1alpha1.Group); len(writes) > 0 {
		t.Errorf("the standby wrote %+v", writes)
	}
	leader.stop()
	standby.waitLog("msg=converged")
	w.change(d, func() { d.Spec.Score = scoreOf("registry.example/web:2") })
	w.awaitDesired("pi-1", d)
}

// TestMarkersAreSwept: what a device deletes leaves nothing in its bucket.
func TestMarkersAreSwept(t *testing.T) {
	w := newWorld(t)
	r := w.startConverged()
	all := w.settle(2, r)
	key := wire.DeploymentKey("pi-1", idOf(all[0]))
	_, err := w.conn.RequestMsg(deletion(wire.DeviceStates.Subject(key)), 5*time.Second)
	w.must(err)
	w.awaitStatus(all[0], "one is pending", func(s v1alpha1.DeploymentStatus) bool { return s.Aggregate.Pending == 1 })
	w.eventually("the marker is swept", func() error {
		stream, err := w.js.Stream(t.Context(), wire.DeviceStates.Stream())
		w.must(err)
		_, err = stream.GetLastMsgForSubject(t.Context(), wire.DeviceStates.Subject(key))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		return cmp.Or(err, errors.New("it is there"))
	})
}

// TestDeletedDevice: a Device that a person deleted gets its keys taken back. When
// its agent is silent it is forgotten, and comes back with its next report only.
func TestDeletedDevice(t *testing.T) {
	w := newWorld(t)
	r := w.startConverged()
	all := w.settle(2, r)
	w.must(w.api.Delete(t.Context(), &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: "pi-1"}}))
	w.awaitDesired("pi-1")
	w.awaitDesired("pi-0", all...)
	w.awaitStatus(all[0], "one less", func(s v1alpha1.DeploymentStatus) bool { return s.Aggregate.MatchedDeviceCount == 1 })
	if keys := w.keys(wire.DesiredState); len(keys) != 4 {
		t.Errorf("the bucket holds %q, want two manifests and the two keys of the other device", keys)
	}
	generation := w.manifest("pi-1").Generation
	w.never("forgets a device that lives", 3*departedTick, func() error {
		if w.get(wire.DeviceInfos, "pi-1") == nil {
			return errors.New("its description is purged")
		}
		return nil
	})
	r.skew.Store(int64(2 * wire.HeartbeatTimeout))
	w.awaitForgotten("pi-1")
	r.stop()
	next := w.startConverged()
	w.quiet(next)
	w.awaitGone(&v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: "pi-1"}})
	w.announce("pi-1", map[string]string{"group": "a"})
	w.awaitDesired("pi-1", all...)
	if m := w.manifest("pi-1"); m.Generation <= generation {
		t.Errorf("generation %d after %d", m.Generation, generation)
	}
}
