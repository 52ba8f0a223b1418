package broker_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

// TestDeviceMay does all that an agent does.
func TestDeviceMay(t *testing.T) {
	b := start(t, broker.Options{Devices: []wire.DeviceID{attacker, victim}})
	refused := make(chan error, 10)
	device := dialDevice(t, b, attacker, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	key := wire.DeploymentKey(attacker, wire.DeploymentID{Namespace: "default", Name: "web"})

	for _, subject := range []string{wire.DeviceInfos.Subject(string(attacker)), wire.DeviceStates.Subject(key), wire.DeviceHeartbeats.Subject(string(attacker))} {
		answer, err := device.Request(subject, []byte("{}"), 2*time.Second)
		if err != nil || !strings.Contains(string(answer.Data), `"seq":1`) {
			t.Errorf("writing %s: %v, %v; want an acknowledgement", subject, answer, err)
		}
	}
	hints, err := device.SubscribeSync(wire.DesiredHint(string(attacker)) + ".*.*")
	if err != nil {
		t.Fatal(err)
	}
	manifests, err := device.SubscribeSync(wire.DesiredHint(string(attacker)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := device.Subscribe(wire.CommandSubjects(attacker), func(msg *nats.Msg) { _ = msg.Respond([]byte("pong")) }); err != nil {
		t.Fatal(err)
	}
	if err := device.Flush(); err != nil {
		t.Fatal(err)
	}

	operator, err := jetstream.New(dial(t, b, b.Operator()))
	if err != nil {
		t.Fatal(err)
	}
	for id, subscription := range map[string]*nats.Subscription{key: hints, string(attacker): manifests} {
		if _, err := operator.Publish(t.Context(), wire.DesiredState.Subject(id), []byte("score")); err != nil {
			t.Fatal(err)
		}
		if msg, err := subscription.NextMsg(2 * time.Second); err != nil || string(msg.Data) != "score" {
			t.Errorf("hint of %s: %v, %v", id, msg, err)
		}
		if msg, err := device.Request(wire.DesiredState.DirectGet(id), nil, 2*time.Second); err != nil || string(msg.Data) != "score" {
			t.Errorf("direct get of %s: %v, %v", id, msg, err)
		}
	}
	if msg, err := device.Request(wire.DesiredState.DirectGet(key+"x"), nil, 2*time.Second); err != nil || msg.Header.Get("Status") != "404" {
		t.Errorf("direct get of a key that is not there: %v, %v; want status 404", msg, err)
	}

	admin := dial(t, b, b.Admin())
	if msg, err := admin.Request(wire.CommandSubject(attacker, wire.VerbPing), nil, 2*time.Second); err != nil || string(msg.Data) != "pong" {
		t.Errorf("command: %v, %v", msg, err)
	}
	begin := time.Now()
	if _, err := admin.Request(wire.CommandSubject(victim, wire.VerbPing), nil, 5*time.Second); !errors.Is(err, nats.ErrNoResponders) || time.Since(begin) > time.Second {
		t.Errorf("command to an absent device: %v after %s, want no responders at once", err, time.Since(begin))
	}
	select {
	case err := <-refused:
		t.Errorf("the broker refused what an agent does: %v", err)
	default:
	}
}

// TestStaffMayNot holds operator and admin to their permissions.
func TestStaffMayNot(t *testing.T) {
	b := start(t, broker.Options{})
	streams := []string{"$JS.API.STREAM.CREATE.x", "$JS.API.STREAM.UPDATE.KV_desired-state", "$JS.API.STREAM.DELETE.KV_desired-state", "$JS.API.STREAM.MSG.DELETE.KV_desired-state", "$SYS.REQ.USER.INFO", "$SYS.REQ.USER.AUTH"}
	states := []string{"$KV.device-state.pi-4.default.web", "$KV.device-info.pi-4", "$KV.device-heartbeat.pi-4"}
	tests := map[string]struct {
		reason   string
		client   *rawClient
		subjects []string
	}{
		"operator": {"it writes desired state and changes no stream", dialRaw(t, b.URL(), password(b.Operator())), append(append(streams, states...), "device-commands.pi-4.ping")},
		"admin":    {"people look and send harmless commands", dialRaw(t, b.URL(), password(b.Admin())), append(append(streams, states...), "$KV.desired-state.pi-4", "$JS.API.STREAM.PURGE.KV_desired-state", "device-commands.pi-4.exec")},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for _, subject := range tc.subjects {
				tc.client.send(pub(subject, "", "{}"))
				if frames := tc.client.roundTrip(); len(frames) != 1 || !strings.Contains(frames[0].err, "Permissions Violation") {
					t.Errorf("%s: publishing to %s: %+v, want a refusal", tc.reason, subject, frames)
				}
			}
		})
	}
}

// TestSimulatorActsAsAnyDevice holds the load simulator to what it is for.
func TestSimulatorActsAsAnyDevice(t *testing.T) {
	b := start(t, broker.Options{})
	simulator := dial(t, b, b.Simulator())
	hints, err := simulator.SubscribeSync(wire.DesiredHint("*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []wire.DeviceID{"sim-1", "sim-2"} {
		put(t, simulator, id)
		if msg, err := simulator.Request(wire.DesiredState.DirectGet(string(id)), nil, 2*time.Second); err != nil || msg.Header.Get("Status") != "404" {
			t.Errorf("direct get: %v, %v", msg, err)
		}
	}
	operator, err := jetstream.New(dial(t, b, b.Operator()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := operator.Publish(t.Context(), wire.DesiredState.Subject("sim-2"), nil); err != nil {
		t.Fatal(err)
	}
	if msg, err := hints.NextMsg(2 * time.Second); err != nil || msg.Subject != "fleet.desired.sim-2" {
		t.Errorf("hint: %v, %v", msg, err)
	}
}
