package operator_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator"
	"github.com/nationtech/harmony-fleet/operator/publish"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/kube"
)

// clientLogs is what the client library says outside of the operator's log.
var clientLogs logs

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(&clientLogs, nil)))
	code := kube.RunTests(m)
	_ = os.RemoveAll(built.dir) // a temporary folder
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// patience is how long a test waits for something to become so: far more than it
// takes on a busy machine. After the API server was away, the client library lets
// up to a minute pass until it looks again.
const patience = 3 * time.Minute

// natsServer is a broker in this process or in one of its own.
type natsServer interface {
	NATS() config.NATSSection
	URL() string
	Operator() config.Credentials
	Provisioner() config.Credentials
	Signing() config.Signing
	TrustedKeys() []string
	Manifest(wire.DeviceID, uint64, map[string]wire.ManifestEntry) ([]byte, error)
	Restart(ctx context.Context) error
	Stop()
}

// world is a cluster and a broker with nothing of the fleet in them. The tests of
// this package share the cluster, one after the other.
type world struct {
	*testing.T
	plane  *kube.ControlPlane
	broker natsServer
	api    client.Client
	conn   *nats.Conn // may do everything in the account of the streams
	js     jetstream.JetStream
}

var prepare sync.Once

func newWorld(t *testing.T) *world {
	t.Helper()
	b, err := broker.Start(t.Context(), broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return newWorldWith(t, b)
}

func newWorldWith(t *testing.T, b natsServer) *world {
	t.Helper()
	w := &world{T: t, plane: kube.Shared(t), broker: b}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, apiextensionsv1.AddToScheme, corev1.AddToScheme, rbacv1.AddToScheme, eventsv1.AddToScheme} {
		w.must(add(scheme))
	}
	var err error
	w.api, err = client.New(w.plane.Config(), client.Options{Scheme: scheme})
	w.must(err)
	prepare.Do(w.prepare)
	w.clear()
	as := b.Provisioner()
	w.conn, err = nats.Connect(b.URL(), nats.UserInfo(as.User, as.Password), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	w.must(err)
	t.Cleanup(w.conn.Close)
	w.js, err = jetstream.New(w.conn)
	w.must(err)
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

const (
	operatorUser      = "fleet-operator"
	operatorNamespace = "fleet-system"
)

// prepare installs the definitions and the operator's user with exactly the
// rules that the operator says it needs.
func (w *world) prepare() {
	w.must(kube.InstallCRDs(w.Context(), w.plane.Config(), crds.All()))
	subjects := []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: operatorUser}}
	name := metav1.ObjectMeta{Name: operatorUser}
	local := metav1.ObjectMeta{Name: operatorUser, Namespace: operatorNamespace}
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: operatorNamespace}},
		&rbacv1.ClusterRole{ObjectMeta: name, Rules: operator.ClusterRules()},
		&rbacv1.ClusterRoleBinding{ObjectMeta: name, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: operatorUser}},
		&rbacv1.Role{ObjectMeta: local, Rules: append(operator.LeaseRules(), publish.Rules(config.PublishedName)...)},
		&rbacv1.RoleBinding{ObjectMeta: local, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: operatorUser}},
	} {
		w.must(w.api.Create(w.Context(), object))
	}
}

// clear removes what an earlier test left.
func (w *world) clear() {
	deployments := &v1alpha1.DeploymentList{}
	w.must(w.api.List(w.Context(), deployments))
	for i := range deployments.Items {
		d := &deployments.Items[i]
		w.must(client.IgnoreNotFound(w.api.Patch(w.Context(), d, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`)))))
		w.must(client.IgnoreNotFound(w.api.Delete(w.Context(), d)))
	}
	w.must(w.api.DeleteAllOf(w.Context(), &v1alpha1.Device{}))
	w.must(w.api.DeleteAllOf(w.Context(), &v1alpha1.DevicePolicy{}))
}

// eventually waits until check passes.
func (w *world) eventually(what string, check func() error) {
	w.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("%s: not within %s: %v", what, patience, err)
		}
		time.Sleep(25 * time.Millisecond)
	}
}

// never watches for a while that check does not fail.
func (w *world) never(what string, d time.Duration, check func() error) {
	w.Helper()
	for deadline := time.Now().Add(d); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err := check(); err != nil {
			w.Fatalf("%s: %v", what, err)
		}
	}
}

// namespace makes a namespace for one test.
func (w *world) namespace() string {
	w.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}
	w.must(w.api.Create(w.Context(), ns))
	return ns.Name
}

// deployment is a Deployment of one container for the devices of a group.
func deployment(namespace, name, group string) *v1alpha1.Deployment {
	return &v1alpha1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.DeploymentSpec{
			TargetSelector: metav1.LabelSelector{MatchLabels: map[string]string{"group": group}},
			Score:          scoreOf("registry.example/" + name + ":1"),
		},
	}
}

func scoreOf(image string) score.Score {
	return score.Score{PodmanV0: &score.PodmanV0{Services: []score.Service{{Name: "main", Image: image}}}}
}

func digestOf(t *testing.T, s score.Score) score.Digest {
	t.Helper()
	canonical, err := score.Encode(s)
	if err != nil {
		t.Fatal(err)
	}
	return score.DigestOf(canonical)
}

func idOf(d *v1alpha1.Deployment) wire.DeploymentID {
	return wire.DeploymentID{Namespace: d.Namespace, Name: d.Name}
}

// change applies a change to what the API server has, whoever else writes.
func (w *world) change(object client.Object, change func()) {
	w.Helper()
	w.eventually("changing "+object.GetName(), func() error {
		w.must(w.api.Get(w.Context(), client.ObjectKeyFromObject(object), object))
		change()
		err := w.api.Update(w.Context(), object)
		if apierrors.IsConflict(err) {
			return err
		}
		w.must(err)
		return nil
	})
}

// put stores raw bytes in a bucket, as a device or a person with rights could.
func (w *world) put(b wire.Bucket, key string, value []byte) {
	w.Helper()
	_, err := w.js.Publish(w.Context(), b.Subject(key), value)
	w.must(err)
}

// announce is a device that says what it is and that it lives.
func (w *world) announce(id wire.DeviceID, labels map[string]string) {
	w.Helper()
	info, err := wire.DeviceInfo{Labels: labels, Inventory: wire.Inventory{Hostname: string(id), Architecture: "arm64"}}.Encode()
	w.must(err)
	w.put(wire.DeviceInfos, wire.DeviceKey(id), info)
	w.heartbeat(id)
}

func (w *world) heartbeat(id wire.DeviceID) {
	w.Helper()
	beat, err := wire.Heartbeat{Session: fmt.Sprintf("%08x", len(id))}.Encode()
	w.must(err)
	w.put(wire.DeviceHeartbeats, wire.DeviceKey(id), beat)
}

// report is what a device says of a Deployment.
func (w *world) report(id wire.DeviceID, dep wire.DeploymentID, state wire.DeviceState) {
	w.Helper()
	data, err := state.Encode()
	w.must(err)
	w.put(wire.DeviceStates, wire.DeploymentKey(id, dep), data)
}

// get returns what a bucket holds under a key; nil for nothing.
func (w *world) get(b wire.Bucket, key string) []byte {
	w.Helper()
	stream, err := w.js.Stream(w.Context(), b.Stream())
	w.must(err)
	msg, err := stream.GetLastMsgForSubject(w.Context(), b.Subject(key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	w.must(err)
	if msg.Header.Get(wire.HeaderOperation) != "" {
		return nil
	}
	return msg.Data
}

// manifest is what is stored for a device; nil for nothing.
func (w *world) manifest(id wire.DeviceID) *wire.Manifest {
	w.Helper()
	data := w.get(wire.DesiredState, wire.DeviceKey(id))
	if data == nil {
		return nil
	}
	m, err := wire.DecodeSignedManifest(data)
	w.must(err)
	w.must(m.Verify(id, w.broker.TrustedKeys()))
	return &m.Manifest
}

// awaitDesired waits until a device's manifest names exactly these Deployments,
// with the scores that they have now, and the keys hold those scores.
func (w *world) awaitDesired(id wire.DeviceID, deployments ...*v1alpha1.Deployment) {
	w.Helper()
	w.eventually("desired state of "+string(id), func() error { return w.desired(id, deployments...) })
}

func (w *world) desired(id wire.DeviceID, deployments ...*v1alpha1.Deployment) error {
	m := w.manifest(id)
	if m == nil {
		return errors.New("there is no manifest")
	}
	if len(m.Deployments) != len(deployments) {
		return fmt.Errorf("the manifest is %+v, want %d entries", m, len(deployments))
	}
	for _, d := range deployments {
		canonical, err := score.Encode(d.Spec.Score)
		w.must(err)
		if got, want := m.Deployments[idOf(d).Token()].Digest, score.DigestOf(canonical); got != want {
			return fmt.Errorf("%s has digest %q in the manifest, want %q", d.Name, got, want)
		}
		if got := w.get(wire.DesiredState, wire.DeploymentKey(id, idOf(d))); !bytes.Equal(got, canonical) {
			return fmt.Errorf("the key of %s holds %q, want %q", d.Name, got, canonical)
		}
	}
	return nil
}

// keys lists the keys of a bucket that have a value.
func (w *world) keys(b wire.Bucket) (keys []string) {
	w.Helper()
	stream, err := w.js.Stream(w.Context(), b.Stream())
	w.must(err)
	info, err := stream.Info(w.Context(), jetstream.WithSubjectFilter(b.Subjects()))
	w.must(err)
	for subject := range info.State.Subjects {
		key, _ := b.Key(subject)
		if w.get(b, key) != nil {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, cmp.Compare)
	return keys
}

// lastSequence tells whether anything was written to a bucket.
func (w *world) lastSequence(b wire.Bucket) uint64 {
	w.Helper()
	stream, err := w.js.Stream(w.Context(), b.Stream())
	w.must(err)
	return stream.CachedInfo().State.LastSeq
}

// awaitStatus waits until a Deployment's status is as check wants it.
func (w *world) awaitStatus(d *v1alpha1.Deployment, what string, check func(v1alpha1.DeploymentStatus) bool) {
	w.Helper()
	current := &v1alpha1.Deployment{}
	w.eventually("status of "+d.Name+": "+what, func() error {
		w.must(w.api.Get(w.Context(), client.ObjectKeyFromObject(d), current))
		if !check(current.Status) {
			return fmt.Errorf("it is %+v", current.Status)
		}
		return nil
	})
}

// awaitGone waits until the API server does not have an object any more.
func (w *world) awaitGone(object client.Object) {
	w.Helper()
	w.eventually(object.GetName()+" is gone", func() error {
		err := w.api.Get(w.Context(), client.ObjectKeyFromObject(object), object)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return cmp.Or(err, errors.New("it is there"))
	})
}

// condition finds a condition; an absent one has no status.
func condition(conditions []metav1.Condition, name string) metav1.Condition {
	for _, c := range conditions {
		if c.Type == name {
			return c
		}
	}
	return metav1.Condition{}
}

// awaitEvent waits for an event about an object, with a reason and a text.
func (w *world) awaitEvent(object client.Object, reason, text string) {
	w.Helper()
	w.eventually("event "+reason, func() error {
		list := &eventsv1.EventList{}
		w.must(w.api.List(w.Context(), list, client.InNamespace(object.GetNamespace())))
		for _, e := range list.Items {
			if e.Regarding.UID == object.GetUID() && e.Reason == reason && strings.Contains(e.Note, text) {
				return nil
			}
		}
		return fmt.Errorf("there are %d others", len(list.Items))
	})
}

// deletion is what a device publishes to delete a key.
func deletion(subject string) *nats.Msg {
	return &nats.Msg{Subject: subject, Header: nats.Header{wire.HeaderOperation: {wire.OperationDelete}}}
}
