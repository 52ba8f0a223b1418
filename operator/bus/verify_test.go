package bus_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

// only bends the stream of one bucket.
func only(b wire.Bucket, change func(*jetstream.StreamConfig)) func(*jetstream.StreamConfig) bool {
	return func(c *jetstream.StreamConfig) bool {
		if c.Name == b.Stream() {
			change(c)
		}
		return true
	}
}

func TestVerifyShape(t *testing.T) {
	tests := map[string]struct {
		reason string
		shape  func(*jetstream.StreamConfig) bool
		want   []string // one per problem
	}{
		"as it shall be": {"the product's own layout is fit", nil, nil},
		"larger": {"sizes are the installation's own business", func(c *jetstream.StreamConfig) bool {
			c.MaxBytes, c.MaxMsgSize, c.MaxConsumers = 5<<20, 1<<20, -1
			return true
		}, nil},
		"bucket missing": {"each missing one is named", func(c *jetstream.StreamConfig) bool { return c.Name == "KV_device-state" }, []string{
			`stream "KV_desired-state" of bucket "desired-state" does not exist: create it`, "KV_device-info", "KV_device-heartbeat",
		}},
		"rollup": {"any device could wipe the bucket", only(wire.DeviceStates, func(c *jetstream.StreamConfig) { c.AllowRollup = true }), []string{
			`stream "KV_device-state": allow_rollup_hdrs is true, want false: change it where the stream is made`,
		}},
		"several": {"all problems are told at once", only(wire.DesiredState, func(c *jetstream.StreamConfig) {
			c.AllowAtomicPublish, c.RePublish, c.AllowDirect, c.MaxMsgsPerSubject = false, nil, false, 5
		}), []string{"max_msgs_per_subject is 5, want 1", "allow_direct is false", "allow_atomic is false", "republish is off, want $KV.desired-state.> to fleet.desired.>"}},
		"republished elsewhere":      {"no device would hear a hint", only(wire.DesiredState, func(c *jetstream.StreamConfig) { c.RePublish.Destination = "other.>" }), []string{"to other.>, want"}},
		"heartbeats not republished": {"agents then hear nothing of a twin, as before there was such a thing", only(wire.DeviceHeartbeats, func(c *jetstream.StreamConfig) { c.RePublish = nil }), nil},
		"heartbeats elsewhere":       {"devices would hear them as something else", only(wire.DeviceHeartbeats, func(c *jetstream.StreamConfig) { c.RePublish.Destination = "fleet.desired.>" }), []string{"to fleet.desired.>, want"}},
		"batches for devices":        {"a device could hold all batch slots", only(wire.DeviceInfos, func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = true }), []string{"allow_atomic is true, want false"}},
		"volatile":                   {"what a restart loses is no store", only(wire.DesiredState, func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage; c.MaxBytes = 1 << 20 }), []string{"storage is Memory, want File"}},
		"expiring":                   {"desired state must not vanish", only(wire.DesiredState, func(c *jetstream.StreamConfig) { c.MaxAge = 3600e9 }), []string{"max_age is 1h0m0s, want 0s"}},
		"small messages":             {"a score would be refused", only(wire.DesiredState, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1024 }), []string{"max_msg_size is 1024, want "}},
		"other subjects":             {"keys would lie elsewhere", only(wire.DeviceInfos, func(c *jetstream.StreamConfig) { c.Subjects = []string{"info.>"} }), []string{"subjects is [info.>], want [$KV.device-info.>]"}},
		"discards old":               {"a full stream must not forget", only(wire.DeviceInfos, func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }), []string{"discard is DiscardOld, want DiscardNew"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			conn := connect(t, startBroker(t, broker.Options{Shape: tc.shape}))
			problems := []string{}
			if err := conn.Verify(t.Context()); err != nil {
				problems = strings.Split(err.Error(), "\n")
			}
			if len(problems) != len(tc.want) {
				t.Fatalf("%s: %d problems, want %d:\n%s", tc.reason, len(problems), len(tc.want), strings.Join(problems, "\n"))
			}
			for i, want := range tc.want {
				if !strings.Contains(problems[i], want) {
					t.Errorf("%s: problem %q lacks %q", tc.reason, problems[i], want)
				}
			}
		})
	}
}

func TestVerifyVersion(t *testing.T) {
	for version, fit := range map[string]bool{
		"2.15.2": true, "2.14.3": true, "3.0.0": true, "2.12.12": true,
		"2.14.2": false, "2.13.9": false, "2.12.11": false, "2.11.99": false, "2.15.0-RC.1": true, "2.14.3-beta": false, "": false, "nonsense": false,
	} {
		t.Run(version, func(t *testing.T) {
			info := fmt.Sprintf(`{"server_id":"x","version":%q,"max_payload":1048576,"headers":true}`, version)
			conn, err := bus.Connect(t.Context(), bus.Options{NATS: urls("nats://" + stub(t, info, nil)), Log: logger(t)})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // the stub answers no request
			defer cancel()
			err = conn.Verify(ctx)
			if got := err == nil || !strings.Contains(err.Error(), "upgrade it to at least 2.14.3, or to 2.12.12 within 2.12"); got != fit {
				t.Errorf("Verify() = %v, want fit = %t", err, fit)
			}
		})
	}
}

// TestVerifyWithoutPermission checks as a user that may do nothing of it.
func TestVerifyWithoutPermission(t *testing.T) {
	b := startBroker(t, broker.Options{Devices: []wire.DeviceID{"pi-4"}})
	conn, err := bus.Connect(t.Context(), bus.Options{NATS: b.NATS(), Credentials: b.Device("pi-4"), Log: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err = conn.Verify(ctx)
	for _, want := range []string{`reading the state of stream "KV_desired-state"`, "Permissions Violation", `give the user "pi-4" this permission`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Verify() = %v, want %q in it", err, want)
		}
	}
}
