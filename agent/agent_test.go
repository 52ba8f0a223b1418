package agent_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/nationtech/harmony-fleet/agent"
	podmanclient "github.com/nationtech/harmony-fleet/agent/podman"
	"github.com/nationtech/harmony-fleet/agent/status"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/podman"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var web = wire.DeploymentID{Namespace: "default", Name: "web"}

// device is one device with a broker, a podman and a registry, all real.
type device struct {
	*testing.T
	cfg      v1alpha1.AgentConfig
	broker   *broker.Broker
	podman   *podman.Service
	registry *registry.Registry
	operator *nats.Conn
	port     int
}

func newDevice(t *testing.T) *device {
	t.Helper()
	d := &device{T: t}
	var err error
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	d.broker, err = broker.Start(t.Context(), broker.Options{Devices: []wire.DeviceID{"pi-4"}})
	must(err)
	t.Cleanup(d.broker.Stop)
	d.podman, err = podman.Start(t.Context(), podman.Options{Name: "agent", Progress: t.Output()})
	must(err)
	t.Cleanup(func() { must(d.podman.Stop()) })
	d.registry, err = registry.Start()
	must(err)
	t.Cleanup(func() { must(d.registry.Stop()) })
	for _, version := range []string{"v1", "v2"} {
		image, err := images.Hello(version)
		must(err)
		must(d.registry.Push("hello:"+version, image))
	}
	as := d.broker.Provisioner()
	d.operator, err = nats.Connect(d.broker.URL(), nats.UserInfo(as.User, as.Password), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	must(err)
	t.Cleanup(d.operator.Close)
	d.port, err = process.FreePort()
	must(err)
	d.cfg = v1alpha1.AgentDefaults()
	d.cfg.Agent.DeviceID, d.cfg.Agent.StateDir, d.cfg.Agent.TrustedKeys = "pi-4", t.TempDir(), d.broker.TrustedKeys()
	d.cfg.NATS, d.cfg.Credentials = d.broker.NATS(), d.broker.Device("pi-4")
	d.cfg.Labels = map[string]string{"site": "berlin"}
	d.cfg.Podman.Socket, d.cfg.Podman.PollInterval = d.podman.Socket(), v1alpha1.Duration(time.Second)
	must(d.cfg.Validate())
	return d
}

// run starts the agent and returns what ends it.
func (d *device) run() (stop func()) {
	d.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	log := funcr.New(func(prefix, args string) { d.Log(prefix, args) }, funcr.Options{})
	running.Go(func() {
		if err := agent.Run(ctx, d.cfg, agent.Options{Version: "v1.2.3", Log: log}); err != nil {
			d.Errorf("Run(): %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	d.Cleanup(stop)
	return stop
}

// want writes the desired state in one atomic batch; "" for the version means
// that nothing shall run.
func (d *device) want(generation uint64, version string) score.Digest {
	d.Helper()
	entries := map[string]wire.ManifestEntry{}
	var keys []string
	var values [][]byte
	var digest score.Digest
	if version != "" {
		canonical, err := score.Encode(score.Score{PodmanV0: &score.PodmanV0{Services: []score.Service{{
			Name: "hello", Image: d.registry.Ref("hello:" + version),
			Ports: []score.Port{{ContainerPort: images.Port, HostPort: int32(d.port), HostIP: "127.0.0.1"}},
		}}}})
		if err != nil {
			d.Fatal(err)
		}
		digest = score.DigestOf(canonical)
		entries[web.Token()] = wire.ManifestEntry{Revision: int64(generation), Digest: digest}
		keys, values = append(keys, wire.DeploymentKey("pi-4", web)), append(values, canonical)
	}
	encoded, err := d.broker.Manifest("pi-4", generation, entries)
	if err != nil {
		d.Fatal(err)
	}
	keys, values = append(keys, wire.DeviceKey("pi-4")), append(values, encoded)
	batch := rand.Text()
	for i, key := range keys {
		msg := nats.NewMsg(wire.DesiredState.Subject(key))
		msg.Data = values[i]
		msg.Header.Set("Nats-Batch-Id", batch)
		msg.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		if i == len(keys)-1 {
			msg.Header.Set("Nats-Batch-Commit", "1")
		}
		ack, err := d.operator.RequestMsg(msg, 5*time.Second)
		if err != nil || strings.Contains(string(ack.Data), `"error"`) {
			d.Fatalf("writing %q: %v, %s", key, err, ack.Data)
		}
	}
	return digest
}

// stored is the last message of a key; nil when there is none.
func (d *device) stored(bucket wire.Bucket, key string) *nats.Msg {
	msg, err := d.operator.Request(bucket.DirectGet(key), nil, 5*time.Second)
	if err != nil || msg.Header.Get("Status") != "" {
		return nil
	}
	return msg
}

// reported is whether the broker has this phase for the Deployment and digest.
func (d *device) reported(phase wire.Phase, digest score.Digest) func() bool {
	return func() bool {
		msg := d.stored(wire.DeviceStates, wire.DeploymentKey("pi-4", web))
		if msg == nil {
			return false
		}
		state, err := wire.DecodeDeviceState(msg.Data)
		return err == nil && state.Phase == phase && state.Digest == digest
	}
}

// containers are the ids of all containers, running or not.
func (d *device) containers() string {
	d.Helper()
	out, err := d.podman.Run(d.Context(), "ps", "--all", "--quiet", "--no-trunc")
	if err != nil {
		d.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// answers is whether the container of that version serves.
func (d *device) answers(version string) func() bool {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return func() bool {
		response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", d.port))
		if err != nil {
			return false
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		return err == nil && strings.Contains(string(body), version)
	}
}

func (d *device) eventually(what string, holds func() bool) {
	d.Helper()
	for end := time.Now().Add(60 * time.Second); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			d.Fatalf("not in 60 s: %s", what)
		}
	}
}

func ask[R wire.Reply](d *device, verb wire.Verb, request []byte) R {
	d.Helper()
	msg, err := d.operator.Request(wire.CommandSubject("pi-4", verb), request, wire.CommandTimeout)
	if err != nil {
		d.Fatalf("%s: %v", verb, err)
	}
	reply, err := wire.DecodeReply[R](msg.Data)
	if err != nil {
		d.Fatalf("%s: %v", verb, err)
	}
	return reply
}

// TestDevice follows one Deployment through its life on a device.
func TestDevice(t *testing.T) {
	d := newDevice(t)
	stop := d.run()
	d.eventually("the device describes itself", func() bool {
		msg := d.stored(wire.DeviceInfos, "pi-4")
		if msg == nil {
			return false
		}
		info, err := wire.DecodeDeviceInfo(msg.Data)
		return err == nil && info.Labels["site"] == "berlin" && info.Inventory.AgentVersion == "v1.2.3" &&
			info.Inventory.PodmanVersion != "" && info.Inventory.DiskBytes > 0
	})
	d.eventually("the device beats", func() bool { return d.stored(wire.DeviceHeartbeats, "pi-4") != nil })

	first := d.want(1, "v1")
	d.eventually("version 1 is reported", d.reported(wire.PhaseSucceeded, first))
	d.eventually("version 1 answers", d.answers("v1"))
	if ping := ask[wire.PingReply](d, wire.VerbPing, nil); ping.AgentVersion != "v1.2.3" || ping.Generation != 1 || len(ping.Session) != 8 {
		t.Errorf("ping: %+v", ping)
	}
	request, err := wire.LogsRequest{Namespace: web.Namespace, Deployment: web.Name}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if logs := ask[wire.LogsReply](d, wire.VerbLogs, request); logs.Error != nil || len(logs.Logs) != 1 || len(logs.Logs[0].Lines) == 0 {
		t.Errorf("logs: %+v", logs)
	}
	if logs := ask[wire.LogsReply](d, wire.VerbLogs, []byte(`{"namespace":"default","deployment":"other"}`)); logs.Error == nil || logs.Error.Reason != wire.CommandNotFound {
		t.Errorf("logs of what is not here: %+v", logs)
	}

	var printed strings.Builder
	if err := status.PrintLogs(t.Context(), &printed, d.cfg, wire.LogsRequest{Lines: 5}); err != nil || !strings.Contains(printed.String(), "serving on port") {
		t.Errorf("logs on the device: %v\n%s", err, printed.String())
	}
	if err := status.PrintLogs(t.Context(), &printed, d.cfg, wire.LogsRequest{Namespace: "default", Deployment: "other", Lines: 5}); !errors.Is(err, podmanclient.ErrNotFound) {
		t.Errorf("logs of what is not here: %v", err)
	}

	old := d.containers()
	second := d.want(2, "v2")
	d.eventually("version 2 is reported", d.reported(wire.PhaseSucceeded, second))
	d.eventually("version 2 answers", d.answers("v2"))
	d.eventually("the old container is gone", func() bool { return !strings.Contains(d.containers(), old) })
	kept := d.containers()
	d.eventually("the page shows it", func() bool {
		view, err := status.Read(t.Context(), d.cfg)
		var page strings.Builder
		return err == nil && view.Print(&page, time.Now()) == nil &&
			strings.Contains(page.String(), "default/web  Succeeded") && strings.Contains(page.String(), kept[:12])
	})

	stop()
	d.broker.Stop()
	if !d.answers("v2")() {
		t.Error("the container ended with the agent")
	}
	if _, err := d.podman.Run(t.Context(), "rm", "--force", "--time", "0", kept); err != nil {
		t.Fatal(err)
	}
	d.run()
	d.eventually("the workload starts from the disk with no broker", d.answers("v2"))
}

// TestRemovalWhileAway deletes a Deployment while the agent is down.
func TestRemovalWhileAway(t *testing.T) {
	d := newDevice(t)
	stop := d.run()
	digest := d.want(1, "v1")
	d.eventually("it runs", d.reported(wire.PhaseSucceeded, digest))
	kept := d.containers()
	stop()

	stop = d.run()
	time.Sleep(3 * time.Second) // three looks at the containers
	if got := d.containers(); got != kept {
		t.Errorf("a restart of the agent replaced container %s by %s", kept, got)
	}
	stop()

	d.want(2, "")
	d.run()
	d.eventually("the container is gone", func() bool { return d.containers() == "" })
	d.eventually("the state is gone", func() bool {
		msg := d.stored(wire.DeviceStates, wire.DeploymentKey("pi-4", web))
		return msg != nil && msg.Header.Get(wire.HeaderOperation) == wire.OperationDelete
	})
}
