package podman

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/overlay"
)

// settings are what the configuration files of one service are made from.
type settings struct {
	Dir     string
	Root    string
	Driver  string
	Network string
	Nofile  uint64
	Nproc   uint64
	Account string // of a rootless service, "" else
	// NoCgroups hides them behind an empty file system.
	NoCgroups bool
}

var files = map[string]*template.Template{
	// runc and cgroupfs work on every host, also with hybrid cgroups and without
	// systemd. Locks in shared memory would be shared with every other podman.
	"containers.conf": template.Must(template.New("").Parse(`[containers]
default_ulimits = ["nofile={{.Nofile}}:{{.Nofile}}", "nproc={{.Nproc}}:{{.Nproc}}"]
log_driver = "k8s-file"

[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "{{.Dir}}/tmp"
helper_binaries_dir = ["{{.Dir}}/bin", "/usr/lib/podman", "/usr/libexec/podman"]

[network]
network_backend = "netavark"
network_config_dir = "{{.Dir}}/net"
default_network = "{{.Network}}"
`)),
	"registries.conf": template.Must(template.New("").Parse(`unqualified-search-registries = []

[[registry]]
location = "127.0.0.1"
insecure = true

[[registry]]
location = "localhost"
insecure = true
`)),
	// podman looks for the policy in its home folder first.
	"home/.config/containers/policy.json": template.Must(template.New("").Parse(`{"default": [{"type": "insecureAcceptAnything"}]}
`)),
	// Services share the host's firewall, and netavark assumes that it is alone:
	// two that start at once fail with "Chain already exists". The lock is not
	// passed on, since the name server that netavark may start lives on.
	"bin/netavark": template.Must(template.New("").Parse(`#!/bin/sh
netavark=/usr/lib/podman/netavark
[ -x "$netavark" ] || netavark=/usr/libexec/podman/netavark
exec flock --close /run/harmony-fleet-netavark.lock "$netavark" "$@"
`)),
	// Health checks are left to whoever asks for one: podman would have systemd
	// run them, in the host's storage.
	"podman": template.Must(template.New("").Parse(`#!/bin/sh
export HOME='{{.Dir}}/home' PATH="$PATH:/usr/sbin:/sbin" DISABLE_HC_SYSTEMD=true
export CONTAINERS_CONF='{{.Dir}}/containers.conf' CONTAINERS_REGISTRIES_CONF='{{.Dir}}/registries.conf'
unset CONTAINER_HOST CONTAINERS_STORAGE_CONF XDG_DATA_HOME XDG_CONFIG_HOME
{{- if .Account}}
export XDG_RUNTIME_DIR='{{.Dir}}/xdg'
cd '{{.Dir}}'
if [ "$(id -u)" = 0 ]; then
  exec unshare --mount sh -c 'mount --bind "$0/tun" /dev/net/tun &&
    exec setpriv --reuid={{.Account}} --regid={{.Account}} --init-groups "$0/podman" "$@"' '{{.Dir}}' "$@"
fi
{{- end}}
exec {{if .NoCgroups}}unshare --mount sh -c 'mount -t tmpfs -o ro none /sys/fs/cgroup && exec "$0" "$@"' {{end}}podman --root '{{.Root}}' --runroot '{{.Dir}}/run' --tmpdir '{{.Dir}}/tmp' \
  --network-config-dir '{{.Dir}}/net' --storage-driver {{.Driver}} "$@"
`)),
}

// configure writes the files that make podman use this folder and nothing else.
func (s *Service) configure(o Options) error {
	for _, name := range []string{"run", "tmp", "net", "bin", "xdg", "home/.config/containers"} {
		if err := os.MkdirAll(s.path(name), 0o700); err != nil {
			return fmt.Errorf("making the folder for %s: %w", name, err)
		}
	}
	driver := "overlay"
	if works, err := overlay.Works(s.root); err != nil {
		return err
	} else if !works {
		driver = "vfs"
	}
	network, err := newNetwork()
	if err != nil {
		return err
	}
	values := settings{
		Dir: s.dir, Root: s.root, Driver: driver, Network: network.Name,
		Nofile: hardLimit(syscall.RLIMIT_NOFILE, 1<<20), Nproc: hardLimit(rlimitNproc, 1<<15),
		NoCgroups: o.NoCgroups,
	}
	if o.Rootless {
		values.Account = account
	}
	for name, file := range files {
		var content bytes.Buffer
		if err := file.Execute(&content, values); err != nil {
			return fmt.Errorf("making %s: %w", name, err)
		}
		if err := os.WriteFile(s.path(name), content.Bytes(), 0o755); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	content, err := json.Marshal(network)
	if err != nil {
		return fmt.Errorf("encoding the network: %w", err)
	}
	if err := os.WriteFile(s.path("net/"+network.Name+".json"), content, 0o600); err != nil {
		return fmt.Errorf("writing the network: %w", err)
	}
	return nil
}

// rlimitNproc is RLIMIT_NPROC, which package syscall does not name.
const rlimitNproc = 6

// hardLimit is what a container may ask for: podman's own default is above the
// hard limit of some hosts, and without CAP_SYS_RESOURCE no container starts.
// own is what podman lowers its own limit to, whatever the host's.
func hardLimit(resource int, own uint64) uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(resource, &limit); err != nil {
		return 1024
	}
	return min(limit.Max, own)
}

// network is a netavark network file.
type network struct {
	Name      string            `json:"name"`
	ID        string            `json:"id"`
	Driver    string            `json:"driver"`
	Interface string            `json:"network_interface"`
	Created   time.Time         `json:"created"`
	Subnets   []subnet          `json:"subnets"`
	IPAM      map[string]string `json:"ipam_options"`
}

type subnet struct {
	Subnet  netip.Prefix `json:"subnet"`
	Gateway netip.Addr   `json:"gateway"`
}

// newNetwork is a default network of its own. podman's built-in one has the same
// bridge, addresses and firewall chains in every storage, so that two services
// would take each other's down; everything here follows from a random name.
func newNetwork() (network, error) {
	var seed [4]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return network{}, fmt.Errorf("naming a network: %w", err)
	}
	suffix := hex.EncodeToString(seed[:])
	name := "fleet-" + suffix
	id := sha256.Sum256([]byte(name))
	address := [4]byte{10, 128 | seed[0], seed[1], 0}
	prefix := netip.PrefixFrom(netip.AddrFrom4(address), 24)
	return network{
		Name: name, ID: hex.EncodeToString(id[:]), Driver: "bridge", Interface: strings.ReplaceAll(name, "-", ""),
		Created: time.Now().UTC(),
		Subnets: []subnet{{Subnet: prefix, Gateway: prefix.Addr().Next()}},
		IPAM:    map[string]string{"driver": "host-local"},
	}, nil
}
