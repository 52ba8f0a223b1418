package broker_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

// The attacker's id is the beginning of the victim's.
const attacker, victim wire.DeviceID = "pi-4", "pi-42"

const secret = "the victim's secret"

// fill gives each bucket a key of the victim and one of the attacker.
func fill(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	for id, value := range map[wire.DeviceID]string{attacker: "the attacker's own", victim: secret} {
		for _, subject := range []string{
			wire.DesiredState.Subject(string(id)), wire.DesiredState.Subject(string(id) + ".default.web"),
			wire.DeviceStates.Subject(string(id) + ".default.web"), wire.DeviceInfos.Subject(string(id)), wire.DeviceHeartbeats.Subject(string(id)),
		} {
			if _, err := js.Publish(t.Context(), subject, []byte(value)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// dump is everything that is stored except the attacker's own info, heartbeat
// and states.
func dump(t *testing.T, js jetstream.JetStream) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, bucket := range wire.Buckets() {
		kv, err := js.KeyValue(t.Context(), bucket.Name)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := kv.Keys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			entry, err := kv.Get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			if bucket.Name == wire.DesiredState.Name || !strings.HasPrefix(key+".", string(attacker)+".") {
				all[bucket.Name+"/"+key] = fmt.Sprintf("%d %s", entry.Revision(), entry.Value())
			}
		}
	}
	return all
}

// attack is what a device sends, and whether the server must say no to it.
type attack struct {
	reason  string
	send    string
	allowed bool
}

// attacks by name. The numbers of the groups are those of the threat model.
func attacks() map[string]attack {
	const (
		a, v   = string(attacker), string(victim)
		get    = "$JS.API.DIRECT.GET.KV_desired-state"
		wanted = "$KV.desired-state." + v + ".default.web"
		own    = "$KV.device-state." + a + ".default.web"
	)
	all := map[string]attack{}
	add := func(group, reason string, sent ...string) {
		for _, s := range sent {
			line, _, _ := strings.Cut(s, "\r\n")
			all[group+" "+line] = attack{reason: reason, send: s}
		}
	}
	publish := func(group, reason string, subjects ...string) {
		for _, s := range subjects {
			add(group, reason, pub(s, "_INBOX_"+a+".x", "{}"))
		}
	}
	subscribe := func(group, reason string, subjects ...string) {
		for _, s := range subjects {
			add(group, reason, sub(s))
		}
	}
	publish("A1", "only the operator writes desired state", wanted, "$KV.desired-state."+v, "$KV.desired-state."+a, "$KV.desired-state."+a+".default.web")
	publish("A1", "another's keys are another's", "$KV.device-state."+v+".default.web", "$KV.device-info."+v, "$KV.device-heartbeat."+v)
	publish("A1", "keys have one shape", "$KV.device-state."+a, "$KV.device-state."+a+".default", own+".more", "$KV.device-info."+a+".more", "$KV.other."+a)
	publish("A1", "a key is no pattern and is never unescaped", "$KV.device-state.*.default.web", "$KV.device-info.*", "$KV.device-info.>", "$KV.device-info.pi%2D4", "$KV.device-info."+a+"%00", "$KV.device-info.PI-4")
	subscribe("A2", "a device hears itself alone", ">", "*", "$KV.>", "$KV.device-state.>", "$JS.>", "fleet.>", "fleet.desired.>", "fleet.desired.*", "fleet.desired.*.*.*",
		"fleet.desired."+v, "fleet.desired."+v+".*.*", "fleet.desired."+a+".>", "device-commands.>", "device-commands.*.ping", "device-commands."+v+".>",
		"> group", "fleet.desired.> group", "fleet.desired."+v+" group", "device-commands."+v+".> group")
	publish("A3", "another's desired state is another's", get+"."+wanted, get+".$KV.desired-state."+v, get+".$KV.desired-state.*", get+".$KV.desired-state."+a+".>", get+".$KV.desired-state.>", get+"."+own,
		"$JS.API.DIRECT.GET.KV_device-state."+own, "$JS.API.DIRECT.GET.KV_device-info.$KV.device-info."+a)
	for _, body := range []string{`{"last_by_subj":"` + wanted + `"}`, `{"seq":6}`, `{"seq":1,"next_by_subj":">"}`, `{"multi_last":[">"],"batch":100}`} {
		all["A3 bare "+body] = attack{reason: "a key in the body cannot be granted", send: pub(get, "_INBOX_"+a+".x", body)}
	}
	publish("A4", "names of others are others'", "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.KV_desired-state", "$JS.API.STREAM.INFO.KV_device-state", "$JS.API.STREAM.MSG.GET.KV_desired-state")
	publish("A5", "no device has a consumer", "$JS.API.CONSUMER.CREATE.KV_desired-state", "$JS.API.CONSUMER.CREATE.KV_desired-state.x", "$JS.API.CONSUMER.CREATE.KV_desired-state.x.$KV.desired-state."+a+".>",
		"$JS.API.CONSUMER.DURABLE.CREATE.KV_desired-state.x", "$JS.API.CONSUMER.MSG.NEXT.KV_desired-state.x", "$JS.API.CONSUMER.DELETE.KV_desired-state.x", "$JS.API.CONSUMER.PAUSE.KV_desired-state.x",
		"$JS.API.CONSUMER.UNPIN.KV_desired-state.x", "$JS.API.CONSUMER.INFO.KV_desired-state.x", "$JS.API.CONSUMER.NAMES.KV_desired-state", "$JS.API.CONSUMER.LIST.KV_desired-state")
	for i, target := range []string{wanted, "$KV.desired-state." + v, "$KV.device-state." + v + ".default.web", "$KV.device-info." + v, "$JS.API.STREAM.PURGE.KV_desired-state", "$JS.API.STREAM.DELETE.KV_desired-state"} {
		const reason = "the server must not write in the device's stead"
		all[fmt.Sprintf("A6 acknowledgement %d", i)] = attack{reason, pub(own, target, "evil"), true}
		all[fmt.Sprintf("A6 direct get %d", i)] = attack{reason, pub(get+".$KV.desired-state."+a+".default.web", target, ""), true}
		all[fmt.Sprintf("A6 missing %d", i)] = attack{reason, pub(get+".$KV.desired-state."+a+".default.none", target, ""), true}
	}
	all["A6 reserved reply"] = attack{"replies of services are the server's", pub(own, "_R_.x", "evil"), false}
	all["A7 deliver subject"] = attack{"a consumer must not deliver in the device's stead", pub("$JS.API.CONSUMER.CREATE.KV_device-state.x."+own, "_INBOX_"+a+".x",
		`{"stream_name":"KV_device-state","config":{"name":"x","deliver_subject":"`+wanted+`","filter_subject":"`+own+`","deliver_policy":"all","ack_policy":"none"}}`), false}
	for _, header := range []string{"Nats-Rollup: all", "Nats-Rollup: sub"} {
		all["A8 "+header] = attack{"a roll-up would wipe the bucket", pub(own, "_INBOX_"+a+".x", "evil", header), true}
	}
	for _, headers := range [][]string{{"Nats-Batch-Id: x", "Nats-Batch-Sequence: 1"}, {"Nats-TTL: 1s"}, {"Nats-Schedule: @at 2030-01-01T00:00:00Z", "Nats-Schedule-Target: " + wanted},
		{"Nats-Expected-Stream: KV_desired-state"}, {"Nats-Msg-Id: guessed"}, {"Nats-Incr: +1"}, {"Nats-Stream-Source: x"}} {
		all["A10 "+headers[0]] = attack{"headers must not reach beyond the key", pub(own, "_INBOX_"+a+".x", "evil", headers...), true}
	}
	all["A10 trace"] = attack{"a trace must not be written in the device's stead", pub(own, "_INBOX_"+a+".x", "evil", "Nats-Trace-Dest: "+wanted), false}
	publish("A11", "streams are the installation's", "$JS.API.STREAM.PURGE.KV_desired-state", "$JS.API.STREAM.DELETE.KV_device-state", "$JS.API.STREAM.UPDATE.KV_device-state", "$JS.API.STREAM.CREATE.x", "$JS.API.STREAM.MSG.DELETE.KV_device-state",
		"$JS.API.STREAM.SNAPSHOT.KV_desired-state", "$JS.API.STREAM.RESTORE.KV_desired-state", "$JS.API.META.LEADER.STEPDOWN", "$JS.API.ACCOUNT.PURGE.FLEET", "$JS.API.SERVER.REMOVE")
	publish("A12", "the server's own subjects are the server's", "$SYS.REQ.USER.INFO", "$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.ACCOUNT.FLEET.CONNZ", "$SRV.PING")
	subscribe("A12", "the server's own subjects are the server's", "$SYS.>", "$SRV.>")
	subscribe("A13", "answers to others are others'", "_INBOX.>", "_INBOX_"+v+".>", "_INBOX_*.>", "_R_.>")
	publish("A13", "nobody writes into an inbox", "_INBOX_"+v+".x", "_INBOX.x", "_R_.x")
	publish("A14", "only the server sends hints", "fleet.desired."+v, "fleet.desired."+a)
	publish("A15", "acknowledgements and flow control are the operator's", "$JS.ACK.KV_desired-state.x.1.1.1.1.1", "$JS.FC.KV_desired-state.x")
	publish("A15", "devices send no commands", "device-commands."+v+".ping", "device-commands."+a+".ping")
	return all
}

// TestDeviceAttacks has one device attack another. What is not allowed must be
// refused; what is allowed must not reach the victim; and nothing that the
// victim owns may come back.
func TestDeviceAttacks(t *testing.T) {
	b := start(t, broker.Options{Devices: []wire.DeviceID{attacker, victim}})
	js, err := jetstream.New(dial(t, b, b.Provisioner()))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, js)
	before := dump(t, js)
	for name, tc := range attacks() {
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, b, b.Device(attacker))
			c.send("SUB _INBOX_" + string(attacker) + ".> 2\r\n") // for the answers
			c.send(tc.send)
			frames := c.roundTrip()
			if tc.allowed {
				time.Sleep(20 * time.Millisecond) // for what the server may do on the device's behalf
				frames = append(frames, c.roundTrip()...)
			}
			refused := false
			for _, f := range frames {
				refused = refused || strings.Contains(f.err, "Permissions Violation")
				if strings.Contains(f.content, secret) {
					t.Errorf("%s: got %q", tc.reason, f.content)
				}
			}
			if refused == tc.allowed {
				t.Errorf("%s: refused = %t, got %+v", tc.reason, refused, frames)
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	if diff := cmp.Diff(before, dump(t, js)); diff != "" {
		t.Errorf("the attacks changed what others own (-before +after):\n%s", diff)
	}
	if _, err := js.Publish(t.Context(), wire.DeviceStates.Subject(string(victim)+".default.web"), []byte("x"), jetstream.WithMsgID("other")); err != nil {
		t.Errorf("the victim cannot write any more: %v", err)
	}
}

// TestDeputyInOneAccount is the control of the attacks through a reply subject:
// within the account of the streams they succeed, and are seen to.
func TestDeputyInOneAccount(t *testing.T) {
	b := start(t, broker.Options{})
	js, err := jetstream.New(dial(t, b, b.Provisioner()))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, js)
	before := dump(t, js)
	c := dialRaw(t, b, b.Provisioner())
	c.send(attacks()["A6 acknowledgement 0"].send + attacks()["A6 direct get 1"].send)
	c.roundTrip()
	time.Sleep(200 * time.Millisecond)
	changed := 0
	for key, value := range dump(t, js) {
		if value != before[key] {
			changed++
		}
	}
	if changed != 2 {
		t.Errorf("%d keys changed, want 2: the attacks of the other test prove nothing", changed)
	}
}

// TestDeviceLimits floods as one device.
func TestDeviceLimits(t *testing.T) {
	b := start(t, broker.Options{Devices: []wire.DeviceID{attacker}})
	limits := wire.DevicePermissions(attacker)
	c := dialRaw(t, b, b.Device(attacker))
	for i := range limits.MaxSubscriptions + 1 {
		c.send(fmt.Sprintf("SUB _INBOX_%s.%d %d\r\n", attacker, i, i+1))
	}
	if frames := c.roundTrip(); len(frames) != 1 || !strings.Contains(strings.ToLower(frames[0].err), "maximum subscriptions exceeded") {
		t.Errorf("after %d subscriptions: %+v", limits.MaxSubscriptions+1, frames)
	}
	c = dialRaw(t, b, b.Device(attacker))
	// The size alone, without the payload: the broker hangs up on the announcement,
	// and a hang-up amid a payload may discard the error that it sent before.
	c.send(fmt.Sprintf("PUB %s %d\r\n", wire.DeviceInfos.Subject(string(attacker)), limits.MaxPayload+1))
	if f, _ := c.next(5 * time.Second); !strings.Contains(f.err, "Maximum Payload Violation") {
		t.Errorf("after a payload of %d bytes: %+v", limits.MaxPayload+1, f)
	}
}

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
	streams := []string{"$JS.API.STREAM.CREATE.x", "$JS.API.STREAM.UPDATE.KV_desired-state", "$JS.API.STREAM.DELETE.KV_desired-state", "$JS.API.STREAM.MSG.DELETE.KV_desired-state", "$SYS.REQ.USER.INFO"}
	states := []string{"$KV.device-state.pi-4.default.web", "$KV.device-info.pi-4", "$KV.device-heartbeat.pi-4"}
	tests := map[string]struct {
		reason   string
		client   *rawClient
		subjects []string
	}{
		"operator": {"it writes desired state and changes no stream", dialRaw(t, b, b.Operator()), append(append(streams, states...), "device-commands.pi-4.ping")},
		"admin":    {"people look and send harmless commands", dialRaw(t, b, b.Admin()), append(append(streams, states...), "$KV.desired-state.pi-4", "$JS.API.STREAM.PURGE.KV_desired-state", "device-commands.pi-4.exec")},
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
