// Package argocd runs Argo CD beside a cluster: its repository server, application
// controller and redis are processes of this machine, and what they are told is
// resources of the cluster. It has no API server and no user interface, reads git
// repositories of this machine alone, and knows nothing of what they hold.
package argocd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/debian"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// Namespace of Argo CD and its Applications.
const Namespace = "argocd"

// ResyncSeconds is how often each Application is compared without a cause: much more
// often than the usual 180, so that ten times can be waited for.
const ResyncSeconds = 3

// startTimeout bounds a start; a busy machine takes many times the usual seconds.
const startTimeout = 5 * time.Minute

// Options of Argo CD.
type Options struct {
	Cluster *cluster.Cluster
	// Component is the folder of a kustomize component that settles Argo CD's
	// configuration.
	Component string
}

// ArgoCD is a running Argo CD, which the kernel kills when this process dies.
type ArgoCD struct {
	cluster  *cluster.Cluster
	dir      string // of everything
	programs programs
	running  []*process.Process // in the order of their start
	apps     dynamic.ResourceInterface
}

// programs are where they lie.
type programs struct{ argocd, helm, kustomize string }

// Prepare gets the programs, so that a later start does not wait for a compiler.
func Prepare(ctx context.Context, progress io.Writer) error {
	_, err := supply(ctx, progress)
	return err
}

func supply(ctx context.Context, progress io.Writer) (p programs, err error) {
	err = debian.Install(ctx, "Argo CD", []debian.Program{
		{Package: "git", Paths: []string{"/usr/bin/git", "/usr/local/bin/git"}},
		// The server too, without the package that would start one.
		{Package: "redis-tools", Paths: []string{redisProgram}},
	}, progress)
	if err != nil {
		return p, err
	}
	for _, t := range []struct {
		path *string
		tool tools.Tool
	}{{&p.argocd, tools.ArgoCD}, {&p.helm, tools.Helm3}, {&p.kustomize, tools.Kustomize}} {
		if *t.path, err = tools.Build(ctx, t.tool, progress); err != nil {
			return p, err
		}
	}
	return p, nil
}

// redisProgram is redis, which is a server when it is called redis-server.
const redisProgram = "/usr/bin/redis-check-rdb"

// Start puts Argo CD's definitions and configuration into the cluster, and returns
// when its programs serve. Cancelling ctx ends the start, not the programs.
func Start(ctx context.Context, o Options) (_ *ArgoCD, err error) {
	a := &ArgoCD{cluster: o.Cluster}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("starting Argo CD: %w", err), a.Stop())
		}
	}()
	config := o.Cluster.Config()
	config.WarningHandler = rest.NoWarnings{} // it minds the name of Argo CD's finalizer
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	a.apps = client.Resource(schema.GroupVersionResource{Group: "argoproj.io", Version: "v1alpha1", Resource: "applications"}).Namespace(Namespace)
	if a.programs, err = supply(ctx, o.Cluster.Progress()); err != nil {
		return nil, err
	}
	if a.dir, err = os.MkdirTemp("", "fleet-argocd-"); err != nil {
		return nil, fmt.Errorf("making a temporary folder: %w", err)
	}
	for _, folder := range []string{"tmp", "home", "tls", "ssh", "gpg"} {
		if err := os.Mkdir(a.path(folder), 0o700); err != nil {
			return nil, err
		}
	}
	if err := a.furnish(ctx, o.Component); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return a, a.run(ctx)
}

// run starts the programs, each when what it needs is there.
func (a *ArgoCD) run(ctx context.Context) error {
	var ports [4]int
	for i := range ports {
		var err error
		if ports[i], err = process.FreePort(); err != nil {
			return err
		}
	}
	redis, server, serverMetrics, controllerMetrics := ports[0], ports[1], ports[2], ports[3]
	if err := os.Symlink(redisProgram, a.path("redis-server")); err != nil {
		return fmt.Errorf("naming redis: %w", err)
	}
	for _, p := range []struct {
		path, part string
		args       []string
		ready      func(context.Context) error
	}{
		{a.path("redis-server"), "redis", []string{
			"--bind", "127.0.0.1", "--port", strconv.Itoa(redis), "--save", "", "--appendonly", "no", "--dir", a.dir,
		}, listens(redis)},
		{a.programs.argocd, "argocd-repo-server", []string{
			"--redis", address(redis), "--disable-tls", "--address", "127.0.0.1", "--port", strconv.Itoa(server),
			"--metrics-address", "127.0.0.1", "--metrics-port", strconv.Itoa(serverMetrics),
		}, listens(server)},
		{a.programs.argocd, "argocd-application-controller", []string{
			"--redis", address(redis), "--repo-server", address(server), "--repo-server-plaintext",
			"--kubeconfig", a.cluster.Kubeconfig(), "--namespace", Namespace, "--metrics-port", strconv.Itoa(controllerMetrics),
			"--app-resync", strconv.Itoa(ResyncSeconds), "--app-resync-jitter", "0",
		}, func(ctx context.Context) error {
			return process.Answers(ctx, "http://"+address(controllerMetrics)+"/healthz")
		}},
	} {
		started, err := process.Start(process.Spec{
			Path: p.path, Args: p.args, Env: append(a.env(), "ARGOCD_BINARY_NAME="+p.part), Log: a.path(p.part + ".log"),
		})
		if err != nil {
			return err
		}
		a.running = append(a.running, started)
		if err := started.WaitReady(ctx, p.ready); err != nil {
			return err
		}
	}
	return nil
}

// env keeps what they write inside the folder, and has them find helm and kustomize.
func (a *ArgoCD) env() []string {
	return []string{
		"PATH=" + filepath.Dir(a.programs.helm) + ":" + filepath.Dir(a.programs.kustomize) + ":" + os.Getenv("PATH"),
		"HOME=" + a.path("home"), "TMPDIR=" + a.path("tmp"),
		"ARGOCD_TLS_DATA_PATH=" + a.path("tls"), "ARGOCD_SSH_DATA_PATH=" + a.path("ssh"),
		"ARGOCD_GNUPGHOME=" + a.path("gpg"), "ARGOCD_GPG_ENABLED=false",
		"ARGOCD_ASK_PASS_SOCK=" + a.path("ask-pass.sock"),
		// It is outside, and calls the cluster its own.
		"ARGOCD_FAKE_IN_CLUSTER=true", "KUBECONFIG=" + a.cluster.Kubeconfig(),
		"ARGOCD_EXEC_TIMEOUT=5m", // helm is slow on a busy machine
	}
}

func (a *ArgoCD) path(parts ...string) string {
	return filepath.Join(append([]string{a.dir}, parts...)...)
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// listens probes a port.
func listens(port int) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address(port))
		if err == nil {
			err = conn.Close()
		}
		return err
	}
}

// Logs are the last lines of what it logged, for a person who must find out why
// something failed.
func (a *ArgoCD) Logs() (all string) {
	for _, p := range a.running {
		all += p.LogTail(30) + "\n"
	}
	return all
}

// Stop ends the programs. What they were told stays in the cluster, see Remove. It
// may be called more than once.
func (a *ArgoCD) Stop() error {
	for i := len(a.running) - 1; i >= 0; i-- {
		a.running[i].Stop(5 * time.Second)
	}
	a.running = nil
	if a.dir == "" {
		return nil
	}
	return os.RemoveAll(a.dir)
}
