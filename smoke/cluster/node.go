package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/process"
)

// node is a sandbox with its own process ids, mounts and network, and the programs
// in it. Its first process does nothing but collect the dead; when it ends, also
// because this process was killed, the kernel ends the others and clears the rest.
type node struct {
	dir     string
	first   *process.Process
	running []*process.Process
}

// sandboxScript runs as the first process. What the parts keep in fixed places of
// the host's lies in the cluster's folder for them: /var/lib and /var/log; sockets and
// locks in a /run of their own. The cluster's own control groups stand where the
// host's do, instead of them: runc is misled by a mount below another. The parts and
// the containers see each other's mounts, the host sees none. Files with
// what kubelet wants stand for kernel settings that it would write else, for the
// whole host.
const sandboxScript = `set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount --bind "$0/lib" /var/lib
mount --bind "$0/log" /var/log
for d in /sys/fs/cgroup /sys/fs/cgroup/*; do
  if [ -d "$d/${0##*/}" ]; then
    mkdir -p /run/own
    mount --bind "$d/${0##*/}" /run/own
    umount --lazy "$d"
    mount --move /run/own "$d"
  fi
done
cd "$0/sysctl"
find . -type f | while read -r file; do mount --bind "$file" "/proc/sys/$file"; done
cd /
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
mount --make-rshared /
touch "$0/isolated"
exec "$1"
`

// kernelSettings are those that kubelet insists on, by their path in /proc/sys.
var kernelSettings = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// startSandbox makes the namespaces; pause is the program that holds them.
func startSandbox(ctx context.Context, dir, pause string) (*node, error) {
	for name, value := range kernelSettings {
		file := filepath.Join(dir, "sysctl", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return nil, fmt.Errorf("making the folder of a kernel setting: %w", err)
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
			return nil, fmt.Errorf("writing a kernel setting: %w", err)
		}
	}
	if err := makeGroups(dir); err != nil {
		return nil, err
	}
	first, err := process.Start(process.Spec{
		Path: "sh", Args: []string{"-c", sandboxScript, dir, pause},
		Log:        filepath.Join(dir, "log", "sandbox.log"),
		Namespaces: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
	})
	if err != nil {
		return nil, err
	}
	n := &node{dir: dir, first: first}
	err = first.WaitReady(ctx, func(context.Context) error {
		_, err := os.Stat(filepath.Join(dir, "isolated"))
		return err
	})
	if err != nil {
		n.stop()
		return nil, fmt.Errorf("making the namespaces of a node: %w", err)
	}
	return n, nil
}

func (n *node) pid() int { return n.first.PID() }

// start runs a program in the sandbox. Its log has the name of the program.
func (n *node) start(program string, args ...string) (*process.Process, error) {
	enter := []string{"--target", strconv.Itoa(n.pid()), "--mount", "--net", "--pid", "--", program}
	p, err := process.Start(process.Spec{
		Path: "nsenter", Args: append(enter, args...),
		Dir: "/",
		// containerd's shim lies beside it, and iptables outside of many a PATH.
		Env: []string{"PATH=" + filepath.Dir(program) + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin"},
		Log: filepath.Join(n.dir, "log", filepath.Base(program)+".log"),
	})
	if err != nil {
		return nil, err
	}
	n.running = append(n.running, p)
	return p, nil
}

// run runs a command in the sandbox, and returns when it has ended.
func (n *node) run(ctx context.Context, command ...string) error {
	return run(ctx, "nsenter", append([]string{"--target", strconv.Itoa(n.pid()), "--mount", "--net", "--"}, command...)...)
}

// mountMemory has a folder hold so many bytes, as the node and its pods see it.
func (n *node) mountMemory(ctx context.Context, folder string, bytes int) error {
	return n.run(ctx, "mount", "-t", "tmpfs", "-o", "size="+strconv.Itoa(bytes), "tmpfs", folder)
}

// ask has each new connection wait for what enforces NetworkPolicies, except those of
// the node's own programs. It would see to that itself, by a part of nftables that
// fewer kernels have than what iptables asks with.
func (n *node) ask(ctx context.Context) error {
	for _, rule := range [][]string{
		{"-m", "owner", "--uid-owner", "0", "-j", "ACCEPT"},
		{"-p", "tcp", "-m", "conntrack", "--ctstate", "NEW", "-j", "NFQUEUE", "--queue-num", "100"},
		{"-p", "udp", "-m", "conntrack", "--ctstate", "NEW", "-j", "NFQUEUE", "--queue-num", "100"},
	} {
		if err := n.run(ctx, append([]string{"iptables", "--wait", "-t", "mangle", "-A", "POSTROUTING"}, rule...)...); err != nil {
			return fmt.Errorf("having NetworkPolicies enforced: %w", err)
		}
	}
	return nil
}

// kill ends a program of the sandbox at once, which is no failure then.
func (n *node) kill(p *process.Process) {
	p.Stop(0)
	n.running = slices.DeleteFunc(n.running, func(other *process.Process) bool { return other == p })
}

// stop ends everything in the sandbox at once.
func (n *node) stop() {
	n.first.Stop(0)
	for _, p := range slices.Backward(n.running) {
		p.Stop(0)
	}
}

// readyTimeout bounds each wait for a part of the node, on a busy machine.
const readyTimeout = 2 * time.Minute
