package packages_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/nationtech/harmony-fleet/agent/podman"
	"github.com/nationtech/harmony-fleet/smoke/images"
)

// withContainer installs the package, has a container run that the agent could have
// made, and purges the package with nobody there to be asked. What purging says is in
// the file said; then it does what that says.
const withContainer = `set -e
dpkg --install /tmp/agent.deb
cd /tmp
tar --create pause | podman import - pause
id=$(podman run --detach --network=none --label=LABEL=true pause /pause)
unset DEBIAN_FRONTEND
dpkg --purge fleet-agent </dev/null >said 2>&1
cat said
echo "left: $(podman ps --quiet --no-trunc --filter id=$id)" | grep "$id"
sh -ec "$(sed --quiet 's/.*"\(podman rm.*\)" ends it.*/\1/p' said)"
test -z "$(podman ps --all --quiet)"
`

// TestPurgeLeavesContainers: purging asks nothing and leaves what runs, and the command
// that it names ends that.
func TestPurgeLeavesContainers(t *testing.T) {
	s := open(t)
	d := newDevice(t)
	program, err := images.PauseProgram()
	must(t, err)
	must(t, exec.Command("cp", program, d.root.Path("tmp/pause")).Run())
	must(t, exec.Command("cp", s.find(t, "fleet-agent_0.0.9-1", "amd64.deb"), d.root.Path("tmp/agent.deb")).Run())
	// The folder has no systemd, and limits are those of the host.
	must(t, d.root.Write("etc/containers/containers.conf", `[containers]
default_ulimits = []
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
`))
	out := d.does(strings.ReplaceAll(withContainer, "LABEL", podman.LabelManaged))
	if !strings.Contains(out, "the state of this device are removed") || !strings.Contains(out, "left: ") {
		t.Errorf("it says %s", out)
	}
	d.has(false, "etc/fleet-agent", "var/lib/fleet-agent", "usr/bin/fleet-agent")
}
