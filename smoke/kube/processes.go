package kube

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"k8s.io/client-go/discovery"

	"github.com/nationtech/harmony-fleet/smoke/process"
)

func (c *ControlPlane) start(name string, args ...string) (*process.Process, error) {
	p, err := process.Start(process.Spec{Path: c.binaries[name], Args: args, Log: c.path("log", name+".log")})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running[name] = p
	return p, nil
}

func (c *ControlPlane) startEtcd(ctx context.Context, fsync bool) error {
	client, err := process.FreePort()
	if err != nil {
		return err
	}
	peer, err := process.FreePort()
	if err != nil {
		return err
	}
	c.etcdURL = "http://127.0.0.1:" + strconv.Itoa(client)
	peerURL := "http://127.0.0.1:" + strconv.Itoa(peer)
	p, err := c.start(etcdName,
		"--name=fleet", "--data-dir="+c.path("etcd"),
		"--listen-client-urls="+c.etcdURL, "--advertise-client-urls="+c.etcdURL,
		"--listen-peer-urls="+peerURL, "--initial-advertise-peer-urls="+peerURL, "--initial-cluster=fleet="+peerURL,
		"--log-level=warn", "--unsafe-no-fsync="+strconv.FormatBool(!fsync))
	if err != nil {
		return err
	}
	return p.WaitReady(ctx, func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(c.etcdURL, "http://"))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// StartAPIServer runs the API server and returns when it is ready; after
// StopAPIServer it has the same address, certificates and data.
func (c *ControlPlane) StartAPIServer(ctx context.Context) error {
	if c.binaries == nil {
		return ErrExisting
	}
	if _, running := c.PIDs()[apiServerName]; running {
		return nil
	}
	args := []string{
		"--etcd-servers=" + c.etcdURL,
		"--bind-address=" + c.network.host(), "--secure-port=" + strconv.Itoa(c.port),
		"--client-ca-file=" + c.ClientCA(),
		"--tls-cert-file=" + c.path("pki", "server.crt"), "--tls-private-key-file=" + c.path("pki", "server.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.path("pki", "accounts.key"),
		"--service-account-signing-key-file=" + c.path("pki", "accounts.key"),
	}
	args = append(args, c.networkArgs()...)
	if c.authentication != "" {
		args = append(args, "--authentication-config="+c.authentication)
	}
	p, err := c.start(apiServerName, args...)
	if err != nil {
		return err
	}
	client, err := discovery.NewDiscoveryClientForConfig(c.config)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	err = p.WaitReady(ctx, func(ctx context.Context) error {
		return client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	if err != nil {
		c.stop(apiServerName, 0)
	}
	return err
}

// networkArgs are the options of the API server that depend on whether there are
// nodes.
func (c *ControlPlane) networkArgs() []string {
	if !c.network.Address.IsValid() {
		return []string{
			// A loopback address may not be advertised. Nothing routes to this one,
			// reserved for documentation, and nothing publishes it.
			"--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none",
			"--service-cluster-ip-range=10.0.0.0/24",
			"--authorization-mode=RBAC",
		}
	}
	return []string{
		"--advertise-address=" + c.network.Address.String(),
		"--service-cluster-ip-range=" + c.network.Services.String(),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		// Logs and exec: the name of a node resolves nowhere.
		"--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate=" + c.path("pki", "admin.crt"), "--kubelet-client-key=" + c.path("pki", "admin.key"),
	}
}

// StopAPIServer kills the API server, as a crash of its machine would; etcd
// keeps the data. Clients see refused connections until StartAPIServer.
func (c *ControlPlane) StopAPIServer() error {
	if c.binaries == nil {
		return ErrExisting
	}
	c.stop(apiServerName, 0)
	return nil
}

// startControllers does not wait: what they do is asynchronous anyway.
func (c *ControlPlane) startControllers() error {
	args := []string{"--kubeconfig=" + c.kubeconfig, "--leader-elect=false", "--secure-port=0"}
	if c.network.Address.IsValid() {
		args = append(args,
			"--root-ca-file="+c.ClientCA(), // pods know the API server by it
			"--service-account-private-key-file="+c.path("pki", "accounts.key"))
	} else {
		args = append(args, "--controllers=namespace-controller,garbage-collector-controller,clusterrole-aggregation-controller")
	}
	_, err := c.start(controllerName, args...)
	return err
}
