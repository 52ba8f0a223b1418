package cluster

import (
	"context"
	"fmt"
	"net"
	"os/exec"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/process"
)

// startContainerd returns when it has the image that each pod needs.
func (s *source) startContainerd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	p, err := s.node.start(s.programs.containerd+"/containerd", "--config", s.path("containerd.toml"))
	if err != nil {
		return err
	}
	err = p.WaitReady(ctx, func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.path("containerd.sock"))
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err != nil {
		return err
	}
	image, err := images.Pause() //nolint:contextcheck // it bounds its compilation itself
	if err != nil {
		return err
	}
	reference, err := name.ParseReference(pauseImage)
	if err != nil {
		return fmt.Errorf("naming the pause image: %w", err)
	}
	archive := s.path("pause.tar")
	if err := tarball.WriteToFile(archive, reference, image); err != nil {
		return fmt.Errorf("writing the pause image: %w", err)
	}
	return s.load(ctx, archive)
}

func (s *source) load(ctx context.Context, archive string) error {
	_, err := output(exec.CommandContext(ctx, s.programs.containerd+"/ctr",
		"--address", s.path("containerd.sock"), "--namespace", "k8s.io", "images", "import", archive))
	return err
}

// startNode starts the parts that talk to the API server, and does not wait.
func (s *source) startNode(ctx context.Context) error {
	if err := s.node.ask(ctx); err != nil {
		return err
	}
	if err := s.plane.Admit(s.path("kubelet.kubeconfig"), "system:node:"+nodeName, "system:nodes"); err != nil {
		return err
	}
	if err := s.startKubelet(); err != nil {
		return err
	}
	for _, p := range []struct {
		program    string
		user       string
		groups     []string
		kubeconfig string
		args       []string
	}{
		{s.programs.proxy, "system:kube-proxy", nil, "kube-proxy.kubeconfig", []string{"--config", s.path("kube-proxy.yaml")}},
		{s.programs.coredns, "coredns", []string{"system:masters"}, "coredns.kubeconfig", []string{"-conf", s.path("Corefile")}},
		{s.programs.policies, "networkpolicies", []string{"system:masters"}, "networkpolicies.kubeconfig", []string{
			"--kubeconfig", s.path("networkpolicies.kubeconfig"), "--node", nodeName,
		}},
		{s.programs.scheduler, "system:kube-scheduler", nil, "kube-scheduler.kubeconfig", []string{
			"--kubeconfig", s.path("kube-scheduler.kubeconfig"), "--leader-elect=false", "--secure-port=0",
		}},
	} {
		if err := s.plane.Admit(s.path(p.kubeconfig), p.user, p.groups...); err != nil {
			return err
		}
		if _, err := s.node.start(p.program, p.args...); err != nil {
			return err
		}
	}
	return nil
}

func (s *source) startKubelet() (err error) {
	s.kubelet, err = s.node.start(s.programs.kubelet,
		"--config", s.path("kubelet.yaml"), "--kubeconfig", s.path("kubelet.kubeconfig"),
		"--hostname-override", nodeName, "--node-ip", s.network.node.String())
	return err
}

func (s *source) restartKubelet() error {
	s.node.kill(s.kubelet)
	return s.startKubelet()
}

// waitReady waits for a node that takes pods, and for the name server; a part that
// has ended meanwhile is the error.
func (s *source) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	ready := func(ctx context.Context) error {
		for _, p := range s.node.running {
			if err := p.Failure(); err != nil {
				return err
			}
		}
		if err := s.nodeReady(ctx); err != nil {
			return err
		}
		return process.Answers(ctx, "http://"+net.JoinHostPort(s.network.node.String(), "8181")+"/ready")
	}
	return s.node.first.WaitReady(ctx, ready)
}
