package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/nationtech/harmony-fleet/smoke/claim"
	"github.com/nationtech/harmony-fleet/smoke/debian"
	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/kube"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/steps"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// source is a cluster of one node on this machine, of Kubernetes' own programs built
// from source, and containerd, runc and CNI plugins from Debian packages. It needs
// root and no registry. NetworkPolicies are enforced. Pods reach each other and this
// host, and nothing else; this host reaches pods, Services and node ports. It is tried
// on hosts with hybrid control groups; those with version 2 alone differ in what groups
// finds.
type source struct {
	dir      string
	owner    *os.File
	network  network
	programs programs
	plane    *kube.ControlPlane
	node     *node
	kubelet  *process.Process // of the node
}

// programs are where the parts lie.
type programs struct {
	scheduler, kubelet, proxy, coredns, policies string

	pause      string
	containerd string // folder of it, ctr and its shim
	cni        string // folder of the plugins
	runc       string
}

// temporaryPrefix of a cluster's folder, and a file that each one has before it has
// anything that outlives this process.
const (
	temporaryPrefix = "fleet-cluster-"
	markFile        = "kubelet.yaml"
)

// Prepare gets everything that Start needs on this machine for a cluster from
// source, so that a later start waits neither for a compiler nor for a download.
func Prepare(ctx context.Context, progress io.Writer) error {
	if _, err := supply(ctx, progress); err != nil {
		return err
	}
	for _, tool := range []tools.Tool{tools.Etcd, tools.KubeAPIServer, tools.KubeControllerManager, tools.Kubectl} {
		if _, err := tools.Build(ctx, tool, progress); err != nil {
			return err
		}
	}
	return nil
}

func (s *source) up(ctx context.Context, journal *steps.Journal) (string, error) {
	for _, step := range []struct {
		what string
		run  func(context.Context) error
	}{
		{"getting the programs (from source the first time, which takes minutes)", func(ctx context.Context) (err error) {
			s.programs, err = supply(ctx, journal.Out)
			return err
		}},
		{"making a network and namespaces for the node", s.isolate},
		{"starting etcd, kube-apiserver and kube-controller-manager", func(ctx context.Context) (err error) {
			s.plane, err = kube.Start(ctx, kube.Options{
				Dir:      s.path("control"),
				Network:  kube.Network{Address: s.network.host, Services: s.network.services},
				Progress: journal.Out,
			})
			return err
		}},
		{"starting containerd, with the image that holds pods", s.startContainerd},
		{"starting kube-scheduler, kube-proxy, CoreDNS, what enforces NetworkPolicies, and kubelet", s.startNode},
		{"making a class of storage with volumes, and the name server's Service", s.furnish},
		{"waiting for the node to be ready", s.waitReady},
	} {
		if err := journal.Step(step.what, func() error { return step.run(ctx) }); err != nil {
			return "", err
		}
	}
	return s.plane.Kubeconfig(), nil
}

// supply finds the programs on the host, in Debian's packages, or builds them.
func supply(ctx context.Context, progress io.Writer) (p programs, err error) {
	err = debian.Install(ctx, "a cluster from source", []debian.Program{
		debian.Runc,
		debian.Iptables,
		{Package: "iproute2", Paths: []string{"/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"}},
		{Package: "util-linux", Paths: []string{"/usr/bin/nsenter"}},
		{Package: "mount", Paths: []string{"/usr/bin/mount", "/bin/mount"}},
	}, progress)
	if err != nil {
		return p, err
	}
	if p.runc, err = exec.LookPath("runc"); err != nil {
		return p, fmt.Errorf("looking for runc: %w", err)
	}
	for _, t := range []struct {
		path *string
		tool tools.Tool
	}{{&p.scheduler, tools.KubeScheduler}, {&p.kubelet, tools.Kubelet}, {&p.proxy, tools.KubeProxy}, {&p.coredns, tools.CoreDNS}, {&p.policies, tools.NetworkPolicies}} {
		if *t.path, err = tools.Build(ctx, t.tool, progress); err != nil {
			return p, err
		}
	}
	if p.pause, err = images.PauseProgram(); err != nil { //nolint:contextcheck // it bounds its compilation itself
		return p, err
	}
	// Unpacked and not installed: the package would start a daemon.
	for _, u := range []struct {
		path            *string
		name, subfolder string
	}{{&p.containerd, "containerd", "usr/bin"}, {&p.cni, "containernetworking-plugins", "usr/lib/cni"}} {
		unpacked, err := debian.Unpack(ctx, u.name, progress)
		if err != nil {
			return p, err
		}
		*u.path = filepath.Join(unpacked, u.subfolder)
	}
	return p, nil
}

// isolate takes a folder, a network and the namespaces that the node runs in.
func (s *source) isolate(ctx context.Context) (err error) {
	if err := claim.Reap(temporaryPrefix, markFile, removeAll); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", temporaryPrefix); err != nil {
		return fmt.Errorf("making a temporary folder: %w", err)
	}
	if s.owner, err = claim.Take(s.dir); err != nil {
		return err
	}
	if s.network, err = takeNetwork(); err != nil {
		return err
	}
	if err := s.configure(); err != nil {
		return err
	}
	if s.node, err = startSandbox(ctx, s.dir, s.programs.pause); err != nil {
		return err
	}
	return s.network.connect(ctx, s.node.pid())
}

func (s *source) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// down ends the node first: with its first process the kernel ends all others in
// its namespaces, and takes their mounts, interfaces and firewall rules away.
func (s *source) down() error {
	if s.dir == "" {
		return nil
	}
	if s.node != nil {
		s.node.stop()
	}
	var err error
	if s.plane != nil {
		err = s.plane.Stop()
	}
	if err = errors.Join(err, s.network.disconnect(), removeAll(s.dir)); err != nil {
		return fmt.Errorf("removing the cluster in %s: %w", s.dir, err)
	}
	if s.owner != nil {
		s.owner.Close() // releases the claim; the file is gone already
	}
	*s = source{}
	return nil
}
