package wire_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

func admits(patterns []string, subject string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return meet(p, subject) })
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
		wire.CommandSubject("pi-4", wire.VerbPing), wire.CommandSubject("pi-4", wire.VerbLogs), wire.HeartbeatHint(key),
	} {
		if !admits(p.Subscribe, subject) {
			t.Errorf("subscribe %s is refused", subject)
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
				found = found || e == wire.Exchange{Account: a.Name, Subject: imported.Subject, Stream: imported.Stream, Why: imported.Why}
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
