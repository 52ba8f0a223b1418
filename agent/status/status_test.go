package status_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/agent/status"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

func TestPrint(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.Local)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	id := func(name string) wire.DeploymentID { return wire.DeploymentID{Namespace: "default", Name: name} }
	report := store.Report{
		Device: "pi-4", Written: ago(time.Minute), Generation: 12,
		Broker: store.BrokerReport{Connected: true, Since: ago(2 * time.Hour)},
		Deployments: []store.DeploymentReport{
			{Namespace: "default", Name: "db", Revision: 1, Since: ago(40 * time.Second), NextTry: now.Add(12 * time.Second), State: wire.DeviceState{
				Phase: wire.PhaseFailed, Reason: "ImagePullFailed", Message: "manifest unknown\x1b[31m",
			}},
			{Namespace: "default", Name: "web", Revision: 3, Since: ago(time.Hour), State: wire.DeviceState{
				Phase: wire.PhaseSucceeded, Reason: "Running",
			}},
		},
	}
	lost := report
	lost.Broker = store.BrokerReport{Since: ago(time.Minute), Error: "nothing listens there"}
	lost.Deployments = nil
	twin := lost
	twin.Twin = "another agent has this device id\x1b[31m"
	held := report
	held.Deployments = nil
	held.Hold = &hold.Hold{Until: now.Add(90 * time.Minute), By: wire.HeldByDevice}
	containers := []reconcile.Container{
		{ID: "3f2a1b4c5d6e7f", Key: reconcile.Key{Deployment: id("web"), Service: "web"}, State: reconcile.Running, Started: ago(time.Hour)},
		{ID: "00112233445566", Key: reconcile.Key{Deployment: id("old"), Service: "job"}, State: reconcile.Exited, Exited: ago(time.Second), ExitCode: 3},
		{ID: "aabbccddeeff00", Key: reconcile.Key{Deployment: id("old"), Service: "hook"}, State: reconcile.Created, Created: ago(time.Second)},
	}
	cases := map[string]struct {
		reason string
		view   status.View
		want   string
	}{
		"Working": {
			reason: "everything there is, and nothing in a message that could steer a terminal",
			view:   status.View{Device: "pi-4", Running: true, Report: report, Containers: containers},
			want: `device  pi-4
agent   running
broker  connected since 2026-03-04 10:00:00 (2h0m0s ago)
wanted  generation 12, deployments: 2

default/db  Failed (ImagePullFailed) since 2026-03-04 11:59:20 (40s ago), next try in 12s
            manifest unknown [31m
            no container

default/web  Succeeded (Running) since 2026-03-04 11:00:00 (1h0m0s ago)
  web        3f2a1b4c5d6e  running since 2026-03-04 11:00:00 (1h0m0s ago)

default/old  not wanted here any more
  hook       aabbccddeeff  created since 2026-03-04 11:59:59 (1s ago)
  job        001122334455  exited with code 3 at 2026-03-04 11:59:59 (1s ago)
`,
		},
		"Down": {
			reason: "an agent that is down, a broker that was and a podman that is",
			view:   status.View{Device: "pi-4", Report: lost, PodmanError: errors.New("podman socket is not there")},
			want: `device  pi-4
agent   NOT RUNNING; below is what it said last, 2026-03-04 11:59:00 (1m0s ago)
broker  not connected since 2026-03-04 11:59:00 (1m0s ago): nothing listens there
wanted  generation 12, deployments: 0
podman  containers are not known: podman socket is not there
`,
		},
		"Twin": {
			reason: "a clone, while the broker is away",
			view:   status.View{Device: "pi-4", Running: true, Report: twin},
			want: `device    pi-4
agent     running
broker    not connected since 2026-03-04 11:59:00 (1m0s ago): nothing listens there
wanted    generation 12, deployments: 0
CONFLICT  another agent has this device id [31m
`,
		},
		"Held": {
			reason: "somebody asked for nothing to be changed",
			view:   status.View{Device: "pi-4", Running: true, Report: held},
			want: `device  pi-4
agent   running
broker  connected since 2026-03-04 10:00:00 (2h0m0s ago)
wanted  generation 12, deployments: 0
HELD    until 2026-03-04 13:30:00 (in 1h30m0s) by the device: what runs is kept running, and nothing else is done
`,
		},
		"Never": {
			reason: "a device on which no agent ran yet",
			view:   status.View{Device: "pi-4"},
			want: `device  pi-4
agent   not running, and has never run here
`,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var page strings.Builder
			if err := tc.view.Print(&page, now); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, page.String()); diff != "" {
				t.Errorf("%s\nPrint(): -want +got\n%s", tc.reason, diff)
			}
		})
	}
}

func TestClaim(t *testing.T) {
	dir := t.TempDir()
	expect := func(want bool) {
		t.Helper()
		if got, err := status.Claimed(dir); err != nil || got != want {
			t.Errorf("Claimed() = %v, %v, want %v", got, err, want)
		}
	}
	expect(false)
	claim, err := status.Claim(dir)
	if err != nil {
		t.Fatal(err)
	}
	expect(true)
	if _, err := status.Claim(dir); !errors.Is(err, status.ErrClaimed) {
		t.Errorf("a second Claim(): %v, want ErrClaimed", err)
	}
	expect(true)
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Fatalf("mounting, which needs root: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	if err := syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	expect(true)
	if err := claim.Close(); err != nil {
		t.Fatal(err)
	}
	expect(false)
}
