package cluster

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"text/template"

	"github.com/nationtech/harmony-fleet/smoke/overlay"
)

// pauseImage holds the namespaces of each pod. Nothing serves this name.
const pauseImage = "fleet.local/pause:latest"

// nodeName is the node's name in the cluster.
const nodeName = "fleet-node"

// settings are what the configuration files are made from.
type settings struct {
	Dir, PauseImage, Snapshotter, Runc, CNI, Node string
	ClientCA                                      string
	Pods, NodeAddress, DNS                        string
}

// files of the parts, by their name in the cluster's folder. Beyond what differs from
// host to host, they make the parts bear with those of little right: containers may
// have hybrid control groups, no CAP_SYS_RESOURCE and full disks.
var files = map[string]string{
	"containerd.toml": `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "{{.Dir}}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{{.PauseImage}}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{{.Snapshotter}}"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{{.Runc}}"
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{{.CNI}}"
conf_dir = "{{.Dir}}/cni"
`,
	// Each pod has a cable of its own, and the node routes between them: all their
	// traffic meets the rules for Services, which a bridge would need help for.
	"cni/fleet.conflist": `{
  "cniVersion": "0.4.0", "name": "fleet",
  "plugins": [
    {"type": "ptp", "ipam": {"type": "host-local", "subnet": "{{.Pods}}", "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`,
	"kubelet.yaml": `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://{{.Dir}}/containerd.sock
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: "{{.ClientCA}}"}
authorization: {mode: Webhook}
clusterDomain: cluster.local
clusterDNS: ["{{.DNS}}"]
resolvConf: "{{.Dir}}/resolv.conf"
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: "0%", imagefs.available: "0%"}
`,
	"kube-proxy.yaml": `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: "{{.Dir}}/kube-proxy.kubeconfig"}
hostnameOverride: {{.Node}}
mode: iptables
clusterCIDR: {{.Pods}}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
iptables: {localhostNodePorts: false}
`,
	"Corefile": `. {
  bind {{.NodeAddress}}
  errors
  ready {{.NodeAddress}}:8181
  kubernetes cluster.local in-addr.arpa {
    kubeconfig {{.Dir}}/coredns.kubeconfig
    pods insecure
  }
  cache 30
  loadbalance
}
`,
	// For pods that want the node's own: it has none.
	"resolv.conf": "",
}

// configure writes the files of all parts.
func (s *source) configure() error {
	snapshotter := "overlayfs"
	if works, err := overlay.Works(s.dir); err != nil {
		return err
	} else if !works {
		snapshotter = "native"
	}
	values := settings{
		Dir: s.dir, PauseImage: pauseImage, Snapshotter: snapshotter,
		Runc: s.programs.runc, CNI: s.programs.cni, Node: nodeName,
		ClientCA: s.path("control", "pki", "ca.crt"),
		Pods:     s.network.pods.String(), NodeAddress: s.network.node.String(), DNS: s.network.dns.String(),
	}
	for _, folder := range []string{"lib", "log", "cni", "volumes"} {
		if err := os.MkdirAll(s.path(folder), 0o755); err != nil {
			return fmt.Errorf("making the folder for %s: %w", folder, err)
		}
	}
	for name, text := range files {
		file, err := template.New(name).Parse(text)
		if err != nil {
			return fmt.Errorf("making %s: %w", name, err)
		}
		var content bytes.Buffer
		if err := file.Execute(&content, values); err != nil {
			return fmt.Errorf("making %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(s.dir, name), content.Bytes(), 0o600); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	return nil
}
