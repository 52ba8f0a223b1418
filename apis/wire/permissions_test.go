package wire_test

import (
	"strings"
	"testing"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// covers reports whether a permission subject admits a literal subject, by the
// rules of NATS wildcards.
func covers(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		switch {
		case token == ">":
			return len(s) > i
		case i >= len(s), token != "*" && token != s[i]:
			return false
		}
	}
	return len(p) == len(s)
}

func admits(patterns []string, subject string) bool {
	for _, p := range patterns {
		if covers(p, subject) {
			return true
		}
	}
	return false
}

// TestDeviceMayDoItsWork: everything that the wire asks of a device is granted.
func TestDeviceMayDoItsWork(t *testing.T) {
	dep := wire.DeploymentID{Namespace: "shop", Name: "web"}
	p := wire.DevicePermissions("pi-4")
	key, depKey := wire.DeviceKey("pi-4"), wire.DeploymentKey("pi-4", dep)
	for _, subject := range []string{
		wire.DeviceInfos.Subject(key), wire.DeviceHeartbeats.Subject(key), wire.DeviceStates.Subject(depKey),
		wire.DesiredState.DirectGet(key), wire.DesiredState.DirectGet(depKey),
	} {
		if !admits(p.Publish, subject) {
			t.Errorf("publish %s is refused", subject)
		}
	}
	for _, subject := range []string{
		wire.DesiredHint(key), wire.DesiredHint(depKey), wire.InboxPrefix("pi-4") + ".x.y",
		wire.CommandSubject("pi-4", wire.VerbPing), wire.CommandSubject("pi-4", wire.VerbLogs),
	} {
		if !admits(p.Subscribe, subject) {
			t.Errorf("subscribe %s is refused", subject)
		}
	}
}

// TestDeviceMayNotTouchAnother enumerates every subject of the wire for another
// device, one of whose ids is a prefix of the other, and the broker's own.
func TestDeviceMayNotTouchAnother(t *testing.T) {
	dep := wire.DeploymentID{Namespace: "shop", Name: "web"}
	for _, pair := range [][2]wire.DeviceID{{"pi-4", "pi-42"}, {"pi-42", "pi-4"}, {"a", "b"}} {
		p := wire.DevicePermissions(pair[0])
		other := pair[1]
		var forbidden []string
		for _, b := range wire.Buckets() {
			for _, key := range []string{wire.DeviceKey(other), wire.DeploymentKey(other, dep)} {
				forbidden = append(forbidden, b.Subject(key), b.DirectGet(key))
			}
			s := b.Stream()
			forbidden = append(forbidden,
				"$JS.API.DIRECT.GET."+s, "$JS.API.STREAM.INFO."+s, "$JS.API.STREAM.MSG.GET."+s, "$JS.API.STREAM.PURGE."+s,
				"$JS.API.CONSUMER.CREATE."+s, "$JS.API.CONSUMER.CREATE."+s+".x."+b.Subject(wire.DeviceKey(pair[0])),
				"$JS.API.CONSUMER.DELETE."+s+".x", "$JS.FC."+s+".x", "$JS.ACK."+s+".x")
		}
		forbidden = append(forbidden,
			wire.DesiredState.Subject(wire.DeviceKey(pair[0])), // its own desired state is not its own to write
			wire.DesiredState.Subject(wire.DeploymentKey(pair[0], dep)),
			wire.DesiredHint(wire.DeviceKey(other)), wire.CommandSubject(other, wire.VerbPing),
			wire.InboxPrefix(other)+".x", "_INBOX.x", "_R_.x", "$SYS.REQ.USER.INFO", "$SYS.x", "$SRV.PING", "$JS.API.INFO", "x")
		for _, subject := range forbidden {
			if admits(p.Publish, subject) {
				t.Errorf("%s may publish %s", pair[0], subject)
			}
			if subject != wire.DesiredHint(wire.DeviceKey(pair[0])) && admits(p.Subscribe, subject) {
				t.Errorf("%s may subscribe %s", pair[0], subject)
			}
		}
	}
}

// TestPermissionsAreAllowLists: a wildcard never stands where the device's id
// belongs.
func TestPermissionsAreAllowLists(t *testing.T) {
	p := wire.DevicePermissions("pi-4")
	for _, subject := range append(append([]string{}, p.Publish...), p.Subscribe...) {
		before, _, found := strings.Cut(subject, "pi-4")
		if !found || strings.ContainsAny(before, "*>") {
			t.Errorf("%s has a wildcard before the device's id, or no id", subject)
		}
	}
}

// TestAccountsAgree: what one account imports, the other exports.
func TestAccountsAgree(t *testing.T) {
	accounts := map[string]wire.Account{}
	for _, a := range wire.Accounts() {
		accounts[a.Name] = a
	}
	for _, a := range accounts {
		for _, imported := range a.Imports {
			found := false
			for _, e := range accounts[imported.Account].Exports {
				found = found || e == wire.Exchange{Account: a.Name, Subject: imported.Subject, Stream: imported.Stream}
			}
			if !found {
				t.Errorf("%s imports %s, which %s does not export", a.Name, imported.Subject, imported.Account)
			}
		}
	}
	if accounts[wire.AccountDevices].JetStream {
		t.Error("devices must live in an account without streams")
	}
}
