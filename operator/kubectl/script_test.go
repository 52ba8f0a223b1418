package kubectl

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"

	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/kube"
	"github.com/nationtech/harmony-fleet/smoke/openbao"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// withControlPlane stops the shared control plane after the tests.
type withControlPlane struct{ m *testing.M }

func (w withControlPlane) Run() int { return kube.RunTests(w.m) }

func TestMain(m *testing.M) {
	testscript.Main(withControlPlane{m}, map[string]func(){"kubectl-fleet": func() {
		os.Exit(Run(context.Background(), "v1.2.3", os.Args[1:], genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}))
	}})
}

// TestScripts runs the binary as a person does, on a real API server and a real
// broker. There are two devices: dev-a, whose agent answers, and dev-b, which is
// offline.
func TestScripts(t *testing.T) {
	plane := kube.Shared(t)
	if err := kube.InstallCRDs(t.Context(), plane.Config(), crds.All()); err != nil {
		t.Fatal(err)
	}
	kubectl, err := tools.Build(t.Context(), tools.Kubectl, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.Start(t.Context(), broker.Options{Dir: t.TempDir(), Devices: []wire.DeviceID{"dev-a", "dev-b"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	f := &fleet{plane: plane, broker: b}
	f.createDevice(t, "dev-a", metav1.ConditionTrue, &wire.Inventory{Architecture: "arm64", OperatingSystem: "Debian GNU/Linux 12", PodmanVersion: "4.3.1"})
	f.createDevice(t, "dev-b", metav1.ConditionFalse, nil)
	f.answer(t, "dev-a")
	bao, person := policies(t)
	f.bao = bao

	params := testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"report": f.report, "entity": f.entity},
		Setup: func(env *testscript.Env) error {
			namespace := "script-" + strings.ToLower(rand.Text()[:8])
			env.Setenv("KUBECONFIG", plane.Kubeconfig())
			env.Setenv("PATH", filepath.Dir(kubectl)+":"+env.Getenv("PATH"))
			env.Setenv("NAMESPACE", namespace)
			env.Setenv("URL", b.URL())
			env.Setenv("BAO_URL", bao.Address())
			env.Setenv("BAO_TOKEN", person)
			env.Setenv("FLEET_NATS_USER", b.Admin().User)
			env.Setenv("FLEET_NATS_PASSWORD", b.Admin().Password)
			return f.createNamespace(namespace)
		},
	}
	testscript.Run(t, params)
	// The life of a device is the same wherever policies are kept.
	params.Dir = filepath.Join("testdata", "life")
	t.Run("policies in the cluster", func(t *testing.T) { testscript.Run(t, params) })
	prepare := params.Setup
	params.Setup = func(env *testscript.Env) error {
		env.Setenv("BAO_ADDR", bao.Address())
		return prepare(env)
	}
	t.Run("policies in OpenBao", func(t *testing.T) { testscript.Run(t, params) })
}

// policies are in OpenBao: of dev-a, of dev-b, which is revoked, and of dev-new,
// which has never connected. person is the token of somebody who may see them.
func policies(t *testing.T) (bao *openbao.Fleet, person string) {
	t.Helper()
	server, err := openbao.Start(t.Context(), openbao.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	if bao, err = server.Fleet(t.Context()); err != nil {
		t.Fatal(err)
	}
	for id, p := range map[wire.DeviceID]policy.Policy{
		"dev-a":   {Labels: map[string][]string{"group": {"a", "b"}, "site": {policy.AnyValue}}, Sources: []string{"192.0.2.0/24"}},
		"dev-b":   {},
		"dev-new": {NKey: "UBUUX6PETB2DPTXVTQLDLBZLT5G2C67HWC456RLPH6RIQTS5G3PMCTIK"},
	} {
		if err := bao.PutPolicy(t.Context(), id, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := bao.Revoke(t.Context(), "dev-b", "stolen"); err != nil {
		t.Fatal(err)
	}
	root, err := bao.Client(bao.RootToken())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := root.Logical().WriteWithContext(t.Context(), "sys/auth/jwt", map[string]any{"type": "jwt"}); err != nil {
		t.Fatal(err)
	}
	if person, err = bao.Person(t.Context()); err != nil {
		t.Fatal(err)
	}
	return bao, person
}

// fleet is what the scripts find.
type fleet struct {
	plane  *kube.ControlPlane
	broker *broker.Broker
	bao    *openbao.Fleet
}

func (f *fleet) createNamespace(name string) error {
	clients, err := kubernetes.NewForConfig(f.plane.Config())
	if err != nil {
		return err
	}
	_, err = clients.CoreV1().Namespaces().Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	return err
}

func (f *fleet) createDevice(t *testing.T, id string, reachable metav1.ConditionStatus, inventory *wire.Inventory) {
	t.Helper()
	c, err := newCluster(f.plane.Config())
	if err != nil {
		t.Fatal(err)
	}
	d := &v1alpha1.Device{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Device"},
		ObjectMeta: metav1.ObjectMeta{Name: id, Labels: map[string]string{v1alpha1.LabelDeviceID: id, "group": strings.TrimPrefix(id, "dev-")}},
		Spec:       v1alpha1.DeviceSpec{Inventory: inventory},
	}
	if err := c.rest.Post().Resource(devices).Body(d).Do(t.Context()).Into(d); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.rest.Delete().Resource(devices).Name(id).Do(context.Background()).Error(); err != nil {
			t.Error(err)
		}
	})
	d.Status.LabelConflicts = []string{`"tier": the device's policy does not allow the value "gold"`}
	d.Status.Conditions = []metav1.Condition{{
		Type: v1alpha1.ConditionReachable, Status: reachable, Reason: "Test", LastTransitionTime: metav1.Now(),
	}}
	if err := c.rest.Put().Resource(devices).Name(id).SubResource("status").Body(d).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
}

// connect connects as the device.
func (f *fleet) connect(id wire.DeviceID) (*nats.Conn, error) {
	as := f.broker.Device(id)
	return nats.Connect(f.broker.URL(), nats.UserInfo(as.User, as.Password), nats.CustomInboxPrefix(wire.InboxPrefix(id)))
}

// answer answers commands as an agent would.
func (f *fleet) answer(t *testing.T, id wire.DeviceID) {
	t.Helper()
	conn, err := f.connect(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	_, err = conn.Subscribe(wire.CommandSubjects(id), func(m *nats.Msg) {
		reply, err := []byte("{"), error(nil)
		switch m.Subject {
		case wire.CommandSubject(id, wire.VerbPing):
			reply, err = wire.EncodeReply(wire.PingReply{AgentVersion: "v1.2.3", UptimeSeconds: 90, Generation: 7})
		case wire.CommandSubject(id, wire.VerbLogs):
			reply, err = wire.EncodeReply(logsOf(m.Data))
		}
		if err == nil {
			err = m.Respond(reply)
		}
		if err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
}

// logsOf knows one Deployment, web, with two services.
func logsOf(data []byte) wire.LogsReply {
	request, err := wire.DecodeLogsRequest(data)
	if err != nil {
		return wire.LogsReply{Error: &wire.CommandError{Reason: wire.CommandBadRequest, Message: err.Error()}}
	}
	if request.Deployment != "web" {
		return wire.LogsReply{Error: &wire.CommandError{Reason: wire.CommandNotFound, Message: "no container of " + request.Deployment}}
	}
	var reply wire.LogsReply
	for _, service := range []string{"web", "db"} {
		if request.Service == "" || request.Service == service {
			lines := []string{service + " starts", service + " \x1b[31mserves"}
			kept := lines[max(0, len(lines)-request.Lines):]
			reply.Logs = append(reply.Logs, wire.ServiceLog{Service: service, Container: strings.Repeat("c0", 32), Lines: kept, Truncated: len(kept) < len(lines)})
		}
	}
	return reply
}

// report is the script command `report DEVICE DEPLOYMENT PHASE REASON`: the
// device says that of the Deployment as it is now.
func (f *fleet) report(ts *testscript.TestScript, _ bool, args []string) {
	device, id := wire.DeviceID(args[0]), wire.DeploymentID{Namespace: ts.Getenv("NAMESPACE"), Name: args[1]}
	c, err := newCluster(f.plane.Config())
	ts.Check(err)
	deployment, err := c.deployment(context.Background(), id)
	ts.Check(err)
	canonical, err := score.Encode(deployment.Spec.Score)
	ts.Check(err)
	state, err := wire.DeviceState{
		Phase: wire.Phase(args[2]), Reason: args[3], Digest: score.DigestOf(canonical),
		Containers: []wire.ContainerRef{{Service: id.Name, ID: strings.Repeat("ab", 32)}},
	}.Encode()
	ts.Check(err)
	conn, err := f.connect(device)
	ts.Check(err)
	defer conn.Close()
	_, err = conn.RequestWithContext(context.Background(), wire.DeviceStates.Subject(wire.DeploymentKey(device, id)), state)
	ts.Check(err)
}

// entity is the script command `entity DEVICE NAME`: OpenBao knows the device by
// that name at its login method, and permits it nothing.
func (f *fleet) entity(ts *testscript.TestScript, absent bool, args []string) {
	root, err := f.bao.Client(f.bao.RootToken())
	ts.Check(err)
	found, err := root.Logical().ReadWithContext(context.Background(), "identity/entity/name/"+secret.EntityName(wire.DeviceID(args[0])))
	ts.Check(err)
	if absent {
		if found != nil {
			ts.Fatalf("there is an entity: %v", found.Data)
		}
		return
	}
	if found == nil {
		ts.Fatalf("there is no entity")
	}
	aliases, _ := found.Data["aliases"].([]any)
	if len(aliases) != 1 || aliases[0].(map[string]any)["name"] != args[1] || found.Data["metadata"] != nil {
		ts.Fatalf("it is %v", found.Data)
	}
}
