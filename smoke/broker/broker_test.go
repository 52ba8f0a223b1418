package broker_test

import (
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// anyBroker is what the tests need of either kind of broker.
type anyBroker interface {
	NATS() v1alpha1.NATSSection
	URL() string
	Dir() string
	Device(wire.DeviceID) v1alpha1.Credentials
	Provisioner() v1alpha1.Credentials
}

func start(t *testing.T, options broker.Options) *broker.Broker {
	t.Helper()
	b, err := broker.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return b
}

func dial(t *testing.T, b anyBroker, as v1alpha1.Credentials, options ...nats.Option) *nats.Conn {
	t.Helper()
	options = append([]nats.Option{nats.UserInfo(as.User, as.Password), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}, options...)
	if file := b.NATS().CAFile; file != "" {
		options = append(options, nats.RootCAs(file))
	}
	conn, err := nats.Connect(b.URL(), options...)
	if err != nil {
		t.Fatalf("connecting as %q: %v", as.User, err)
	}
	t.Cleanup(conn.Close)
	return conn
}

func dialDevice(t *testing.T, b anyBroker, id wire.DeviceID, options ...nats.Option) *nats.Conn {
	t.Helper()
	return dial(t, b, b.Device(id), append(options, nats.CustomInboxPrefix(wire.InboxPrefix(id)))...)
}

func streams(t *testing.T, b anyBroker) []string {
	t.Helper()
	js, err := jetstream.New(dial(t, b, b.Provisioner()))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	list := js.StreamNames(t.Context())
	for name := range list.Name() {
		names = append(names, name)
	}
	if list.Err() != nil {
		t.Fatal(list.Err())
	}
	return names
}

var allStreams = []string{"KV_desired-state", "KV_device-heartbeat", "KV_device-info", "KV_device-state"}

func TestStreams(t *testing.T) {
	tests := map[string]struct {
		reason string
		shape  func(*jetstream.StreamConfig) bool
		want   []string
	}{
		"all":      {"the layout is the product's", nil, allStreams},
		"left out": {"a broker that lacks a bucket can be had", func(c *jetstream.StreamConfig) bool { return c.Name != "KV_device-info" }, []string{"KV_desired-state", "KV_device-heartbeat", "KV_device-state"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			b := start(t, broker.Options{Shape: tc.shape})
			if diff := cmp.Diff(tc.want, streams(t, b)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

// put writes a device's heartbeat and its info.
func put(t *testing.T, conn *nats.Conn, id wire.DeviceID) {
	t.Helper()
	for _, bucket := range []wire.Bucket{wire.DeviceInfos, wire.DeviceHeartbeats} {
		if _, err := conn.Request(bucket.Subject(wire.DeviceKey(id)), []byte("{}"), 2*time.Second); err != nil {
			t.Fatalf("writing to %s: %v", bucket.Name, err)
		}
	}
}

func stored(t *testing.T, b anyBroker, bucket wire.Bucket) uint64 {
	t.Helper()
	js, err := jetstream.New(dial(t, b, b.Provisioner()))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), bucket.Stream())
	if err != nil {
		t.Fatal(err)
	}
	return stream.CachedInfo().State.Msgs
}

func TestRestartKeepsPortStoreAndUsers(t *testing.T) {
	b := start(t, broker.Options{Devices: []wire.DeviceID{"pi-4"}, SyncAlways: true})
	url := b.URL()
	put(t, dialDevice(t, b, "pi-4"), "pi-4")
	if err := b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkRestarted(t, b, url)
}

func TestProcessIsKilledAndRestarted(t *testing.T) {
	b, err := broker.StartProcess(t.Context(), broker.Options{Devices: []wire.DeviceID{"pi-4"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	url, pid := b.URL(), b.PID()
	put(t, dialDevice(t, b, "pi-4"), "pi-4")
	b.Kill()
	if err := b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.PID() == pid {
		t.Error("the restarted broker has the process id of the killed one")
	}
	checkRestarted(t, b, url)
	if err := b.AddDevice(t.Context(), "pi-5"); err != nil {
		t.Errorf("adding a device to a broker in a process of its own: %v", err)
	}
}

func checkRestarted(t *testing.T, b anyBroker, url string) {
	t.Helper()
	if b.URL() != url {
		t.Errorf("URL moved from %s to %s", url, b.URL())
	}
	if n := stored(t, b, wire.DeviceInfos); n != 1 {
		t.Errorf("the bucket has %d messages, want 1", n)
	}
	put(t, dialDevice(t, b, "pi-4"), "pi-4")
}

func TestAddDevice(t *testing.T) {
	b := start(t, broker.Options{Devices: []wire.DeviceID{"pi-4"}})
	lost := make(chan error, 1)
	old := dialDevice(t, b, "pi-4", nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { lost <- err }))
	for _, id := range []wire.DeviceID{"pi-5", "pi-4", "pi-5"} {
		if err := b.AddDevice(t.Context(), id); err != nil {
			t.Fatalf("AddDevice(%q): %v", id, err)
		}
	}
	put(t, dialDevice(t, b, "pi-5"), "pi-5")
	put(t, old, "pi-4")
	select {
	case err := <-lost:
		t.Errorf("the connection of another device was lost: %v", err)
	default:
	}
	for _, id := range []wire.DeviceID{"pi.4", "*", ">", "", "Pi"} {
		if err := b.AddDevice(t.Context(), id); err == nil {
			t.Errorf("AddDevice(%q) succeeded; such an id widens permissions", id)
		}
	}
}

// TestTLS: a broker that speaks TLS is reached by who trusts its authority, and by
// nobody else.
func TestTLS(t *testing.T) {
	b := start(t, broker.Options{Devices: []wire.DeviceID{"pi-4"}, TLS: true})
	put(t, dialDevice(t, b, "pi-4"), "pi-4")
	as := b.Device("pi-4")
	if conn, err := nats.Connect(b.URL(), nats.UserInfo(as.User, as.Password)); err == nil {
		conn.Close()
		t.Error("a certificate of an unknown authority is trusted")
	}
}

func TestStopRemovesItsFolder(t *testing.T) {
	b, err := broker.Start(t.Context(), broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b.Stop()
	if _, err := os.Stat(b.Dir()); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", b.Dir(), err)
	}
}
