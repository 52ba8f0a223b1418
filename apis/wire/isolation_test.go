package wire_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// meet reports whether two subjects with wildcards have a literal subject in
// common. For one that is literal, it is whether the other matches it.
func meet(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		switch {
		case x[i] == ">" || y[i] == ">":
			return true
		case x[i] != "*" && y[i] != "*" && x[i] != y[i]:
			return false
		}
	}
	return len(x) == len(y)
}

func TestMeet(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"a.b", "a.b", true}, {"a.b", "a.c", false}, {"a.b", "a", false}, {"a.*", "a.b", true}, {"a.*", "a", false},
		{"a.*", "a.b.c", false}, {"a.>", "a", false}, {"a.>", "a.b.c", true}, {">", "a", true}, {"*.b", "a.*", true},
		{"*.b", "a.c", false}, {"a.*.c", "a.>", true}, {"a.b.>", "a.*", false}, {"pi-4", "pi-42", false}, {"pi-4.>", "pi-42.x", false},
	} {
		if meet(tc.a, tc.b) != tc.want || meet(tc.b, tc.a) != tc.want {
			t.Errorf("meet(%q, %q) != %t", tc.a, tc.b, tc.want)
		}
	}
}

// streamRequests are all JetStream requests about one stream, in every form that
// the server listens to; those about a key have it in key, which may be a pattern.
func streamRequests(stream, key string) []string {
	var all []string
	for _, verb := range []string{"CREATE", "UPDATE", "INFO", "DELETE", "PURGE", "MSG.GET", "MSG.DELETE", "SNAPSHOT", "RESTORE",
		"LEADER.STEPDOWN", "PEER.REMOVE", "PEER.EVACUATE", "CANCEL_MOVE"} {
		all = append(all, "$JS.API.STREAM."+verb+"."+stream)
	}
	for _, verb := range []string{"CREATE", "NAMES", "LIST", "DURABLE.CREATE", "INFO", "DELETE", "MSG.NEXT", "PAUSE", "UNPIN", "RESET", "LEADER.STEPDOWN", "PEER.REMOVE", "PEER.EVACUATE"} {
		all = append(all, "$JS.API.CONSUMER."+verb+"."+stream, "$JS.API.CONSUMER."+verb+"."+stream+".*")
	}
	return append(all,
		"$JS.API.CONSUMER.CREATE."+stream+".*."+key, "$JS.API.CONSUMER.CREATE."+stream+".*.>",
		"$JS.API.DIRECT.GET."+stream, "$JS.API.DIRECT.GET."+stream+"."+key,
		"$JS.ACK."+stream+".>", "$JS.ACK.*.*."+stream+".>", "$JS.FC."+stream+".>", "$JS.SNAPSHOT.ACK."+stream+".>", "$JS.SNAPSHOT.RESTORE."+stream+".>")
}

// brokersOwn are the subjects of accounts and of the server itself.
var brokersOwn = []string{
	"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.TEMPLATE.>", "$JS.API.ACCOUNT.>", "$JS.API.OBJ.>", "$JS.API.META.>", "$JS.API.SERVER.>",
	"$JS.EVENT.>", "$JSC.>", "$SYS.>", "$SRV.>", "$MQTT.>", "$GR.>", "_GR_.>", "$GNR.>", "_R_.>", "_INBOX.>", "$LDS.>", "$NRG.>",
	"$SYS.REQ.USER.AUTH", "$SYS.REQ.USER.INFO",
}

// belongings is every subject with wildcards that has to do with one device.
func belongings(id wire.DeviceID) []string {
	all := []string{wire.InboxPrefix(id) + ".>", wire.InboxPrefix(id), wire.CommandSubjects(id), wire.DesiredHint(wire.DeviceKey(id)), wire.DesiredHint(wire.DeviceKey(id)) + ".>", wire.HeartbeatHint(wire.DeviceKey(id)), wire.HeartbeatHint(wire.DeviceKey(id)) + ".>"}
	for _, b := range wire.Buckets() {
		for _, key := range []string{wire.DeviceKey(id), wire.DeviceKey(id) + ".*.*", wire.DeviceKey(id) + ".>"} {
			all = append(all, b.Subject(key), b.DirectGet(key))
			all = append(all, streamRequests(b.Stream(), b.Subject(key))...)
		}
	}
	return all
}

// trespasses lists what a device with these permissions may do to another.
func trespasses(p wire.Permissions, other wire.DeviceID) []string {
	var found []string
	check := func(verb string, granted, forbidden []string) {
		for _, g := range granted {
			for _, f := range forbidden {
				if meet(g, f) {
					found = append(found, verb+" "+g+" reaches "+f)
				}
			}
		}
	}
	forbidden := append(belongings(other), brokersOwn...)
	check("publish", p.Publish, forbidden)
	check("subscribe", p.Subscribe, forbidden)
	others := wire.DevicePermissions(other)
	check("publish", p.Publish, append(others.Publish, others.Subscribe...))
	check("subscribe", p.Subscribe, append(others.Publish, others.Subscribe...))
	// Who can send to itself can give itself a reply subject that it may then
	// publish to.
	check("answering itself: publish", p.Publish, p.Subscribe)
	// Nobody but the operator writes desired state, not even the device's own.
	check("publish", p.Publish, []string{wire.DesiredState.Subjects(), wire.DesiredHint(">"), wire.AllCommands})
	return found
}

// TestDevicesAreIsolated proves by matching alone that no device reaches
// another's subjects or the broker's own.
func TestDevicesAreIsolated(t *testing.T) {
	for _, pair := range [][2]wire.DeviceID{{"pi-4", "pi-42"}, {"pi-42", "pi-4"}, {"a", "b"}, {"a", "a-"}, {"x", "default"}} {
		for _, trespass := range trespasses(wire.DevicePermissions(pair[0]), pair[1]) {
			t.Errorf("%s against %s: %s", pair[0], pair[1], trespass)
		}
	}
}

// TestAnyTwoDevicesAreIsolated is the same for any two ids.
func TestAnyTwoDevicesAreIsolated(t *testing.T) {
	ids := rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?`)
	rapid.Check(t, func(t *rapid.T) {
		one, other := wire.DeviceID(ids.Draw(t, "one")), wire.DeviceID(ids.Draw(t, "other"))
		if one == other {
			other = one + "0"
		}
		for _, trespass := range trespasses(wire.DevicePermissions(one), other) {
			t.Errorf("%s against %s: %s", one, other, trespass)
		}
	})
}

// TestTrespassesAreSeen: each of these grants would be a hole, and is found.
func TestTrespassesAreSeen(t *testing.T) {
	publish := []string{
		">", "$KV.>", "$KV.device-state.>", "$KV.device-state.*.*.*", "$KV.device-info.*", "$KV.desired-state.pi-4", "$JS.API.>", "$JS.API.DIRECT.GET.KV_desired-state",
		"$JS.API.DIRECT.GET.KV_desired-state.>", "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.INFO.KV_device-info", "$JS.API.CONSUMER.CREATE.KV_desired-state.>",
		"$JS.API.CONSUMER.DELETE.KV_device-state.*", "$JS.ACK.>", "$JS.FC.KV_desired-state.>", "*.x", "_INBOX_pi-42.x", "_INBOX.>", "_R_.>", "$SYS.>",
		"$SYS.REQ.USER.AUTH", "device-commands.*.ping", "fleet.desired.pi-4", "_INBOX_pi-4.x", "device-commands.pi-4.ping", "fleet.heartbeat.pi-4", "fleet.heartbeat.pi-42",
	}
	for _, subject := range publish {
		p := wire.DevicePermissions("pi-4")
		p.Publish = append(slices.Clone(p.Publish), subject)
		if len(trespasses(p, "pi-42")) == 0 {
			t.Errorf("a device that may publish %s is thought to be harmless", subject)
		}
	}
	for _, subject := range []string{">", "*", "*.>", "$KV.>", "_INBOX.>", "*.x.y", "fleet.>", "fleet.desired.*", "fleet.desired.*.*.*", "fleet.heartbeat.*", "$KV.device-heartbeat.pi-4", "device-commands.>", "device-commands.*.logs", "$SYS.>", "_R_.>", "$JS.>"} {
		p := wire.DevicePermissions("pi-4")
		p.Subscribe = append(slices.Clone(p.Subscribe), subject)
		if len(trespasses(p, "pi-42")) == 0 {
			t.Errorf("a device that may subscribe %s is thought to be harmless", subject)
		}
	}
}
