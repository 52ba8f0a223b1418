// Package kube runs a real Kubernetes control plane on loopback for tests and
// the demo: etcd, kube-apiserver with RBAC on, the two controllers that deletion
// needs (namespaces and garbage collection) and the one that aggregates
// ClusterRoles. It needs no privileges and no container runtime. It never runs
// pods: there is no scheduler and no node. Those come with package cluster, for
// which it listens where they reach it and runs all controllers.
package kube

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/nationtech/harmony-fleet/smoke/pki"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// Options of a control plane; the zero value is what a test wants.
type Options struct {
	// Dir holds data, certificates, logs and the kubeconfig. When empty, a
	// temporary folder is used and Stop removes it.
	Dir string
	// Fsync makes etcd sync every write to disk, as in production. Off, a power
	// cut loses data and writes are quick.
	Fsync bool
	// Authentication is the text of an AuthenticationConfiguration, as an operator
	// of a cluster writes it: who may log in beside the administrator's
	// certificate, with tokens of which OpenID provider. The API server must reach
	// that provider by https. When empty, it knows no provider.
	Authentication []byte
	// Network lets nodes join; the zero value is a control plane without.
	Network Network
	// Progress hears about building the programs the first time; nil means
	// standard error.
	Progress io.Writer
}

// Network is where a control plane meets its nodes.
type Network struct {
	// Address of this machine that nodes and pods reach. The API server listens
	// there, and not on loopback.
	Address netip.Addr
	// Services are the addresses that Services get. This machine must route to
	// them, for webhooks.
	Services netip.Prefix
}

// port of the API server on an address that is the cluster's alone.
const port = 6443

// host is the name under which this machine reaches the API server.
func (n Network) host() string {
	if n.Address.IsValid() {
		return n.Address.String()
	}
	return "127.0.0.1"
}

// ControlPlane is a running control plane, or an existing cluster.
type ControlPlane struct {
	dir        string
	temporary  bool
	kubeconfig string
	config     *rest.Config
	ca         *pki.Authority
	network    Network
	port       int
	binaries   map[string]string
	etcdURL    string
	// authentication is the file of Options.Authentication; "" for none.
	authentication string

	mu      sync.Mutex // guards running: a sampler may read PIDs at any time
	running map[string]*process.Process
}

// Names of the processes, as PIDs reports them.
const (
	etcdName       = "etcd"
	apiServerName  = "kube-apiserver"
	controllerName = "kube-controller-manager"
)

// ErrExisting is returned by what cannot be done to a cluster that this package
// did not start.
var ErrExisting = errors.New("the cluster was not started here")

// startTimeout bounds the start of all three processes; a busy machine takes
// several times the usual 5 s.
const startTimeout = 2 * time.Minute

// Start runs a control plane and returns when its API server is ready. The
// programs are built first when the cache lacks them. Cancelling ctx ends the
// start, not the control plane.
func Start(ctx context.Context, o Options) (_ *ControlPlane, err error) {
	if o.Progress == nil {
		o.Progress = os.Stderr
	}
	c := &ControlPlane{dir: o.Dir, network: o.Network, binaries: map[string]string{}, running: map[string]*process.Process{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("starting a control plane: %w", err), c.Stop())
		}
	}()
	for _, tool := range []tools.Tool{tools.Etcd, tools.KubeAPIServer, tools.KubeControllerManager} {
		if c.binaries[tool.String()], err = tools.Build(ctx, tool, o.Progress); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := c.prepare(); err != nil {
		return nil, err
	}
	if err := c.writeAuthentication(o.Authentication); err != nil {
		return nil, err
	}
	if err := c.startEtcd(ctx, o.Fsync); err != nil {
		return nil, err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return nil, err
	}
	return c, c.startControllers()
}

// Existing uses the cluster of a kubeconfig file instead of starting one.
func Existing(kubeconfig string) (*ControlPlane, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig %q: %w", kubeconfig, err)
	}
	config.QPS = -1
	return &ControlPlane{kubeconfig: kubeconfig, config: config}, nil
}

// Config is a copy of the administrator's client configuration, without a
// client-side rate limit.
func (c *ControlPlane) Config() *rest.Config { return rest.CopyConfig(c.config) }

// Kubeconfig is the path of the administrator's kubeconfig.
func (c *ControlPlane) Kubeconfig() string { return c.kubeconfig }

// PIDs are the process ids by program name: etcd, kube-apiserver and
// kube-controller-manager. Empty for an existing cluster.
func (c *ControlPlane) PIDs() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	pids := map[string]int{}
	for name, p := range c.running {
		pids[name] = p.PID()
	}
	return pids
}

// Stop ends all processes and removes a temporary folder. It may be called more
// than once and does nothing to an existing cluster.
func (c *ControlPlane) Stop() error {
	c.stop(controllerName, 0)
	c.stop(apiServerName, 0)
	c.stop(etcdName, 5*time.Second) // may have data to write
	if !c.temporary {
		return nil
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("removing the control plane's folder: %w", err)
	}
	return nil
}

func (c *ControlPlane) stop(name string, grace time.Duration) {
	c.mu.Lock()
	p := c.running[name]
	delete(c.running, name)
	c.mu.Unlock()
	if p != nil {
		p.Stop(grace)
	}
}

// prepare makes the folder, the certificates and the kubeconfig, and takes a port.
func (c *ControlPlane) prepare() (err error) {
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "fleet-kube-"); err != nil {
			return fmt.Errorf("making a temporary folder: %w", err)
		}
		c.temporary = true
	}
	for _, name := range []string{"pki", "log"} {
		if err := os.MkdirAll(c.path(name), 0o700); err != nil {
			return fmt.Errorf("making the folder for %s: %w", name, err)
		}
	}
	admin, err := c.writePKI(c.path("pki"))
	if err != nil {
		return err
	}
	if c.port = port; !c.network.Address.IsValid() {
		if c.port, err = process.FreePort(); err != nil {
			return err
		}
	}
	c.config = c.configOf(admin)
	c.kubeconfig = c.path("admin.kubeconfig")
	return writeKubeconfig(c.kubeconfig, c.config)
}

func (c *ControlPlane) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}

// configOf is the configuration of the client that has the pair.
func (c *ControlPlane) configOf(client pki.Pair) *rest.Config {
	return &rest.Config{
		Host:            "https://" + net.JoinHostPort(c.network.host(), strconv.Itoa(c.port)),
		TLSClientConfig: rest.TLSClientConfig{CAData: c.ca.PEM, CertData: client.Cert, KeyData: client.Key},
		QPS:             -1,
	}
}

// Admit writes a kubeconfig file for a part of the cluster, such as a kubelet, that
// is known by this name and in these groups.
func (c *ControlPlane) Admit(file, name string, groups ...string) error {
	if c.ca == nil {
		return ErrExisting
	}
	pair, err := c.ca.Issue(pkix.Name{CommonName: name, Organization: groups})
	if err != nil {
		return err
	}
	return writeKubeconfig(file, c.configOf(pair))
}

// ClientCA is the file with the authority of all clients' certificates, which
// a kubelet needs to know the API server by.
func (c *ControlPlane) ClientCA() string { return c.path("pki", "ca.crt") }

// writeAuthentication keeps the configuration where every start of the API server
// finds it.
func (c *ControlPlane) writeAuthentication(configuration []byte) error {
	if len(configuration) == 0 {
		return nil
	}
	c.authentication = c.path("authentication.yaml")
	if err := os.WriteFile(c.authentication, configuration, 0o600); err != nil {
		return fmt.Errorf("writing the authentication configuration: %w", err)
	}
	return nil
}

func writeKubeconfig(path string, config *rest.Config) error {
	const name = "harmony-fleet"
	file := clientcmdapi.NewConfig()
	file.Clusters[name] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	file.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: config.CertData, ClientKeyData: config.KeyData, Token: config.BearerToken}
	file.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	file.CurrentContext = name
	if err := clientcmd.WriteToFile(*file, path); err != nil {
		return fmt.Errorf("writing the kubeconfig: %w", err)
	}
	return nil
}
