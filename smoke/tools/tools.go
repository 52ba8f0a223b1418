// Package tools builds the programs that the tests and the demo run but that
// are not the product's own: Kubernetes, etcd, CoreDNS, the NATS command line and
// a server with OpenBao's API. Each has a Go module below this folder that pins
// its version, and some of its source as well; the binaries lie in the user's
// cache, outside the tree. It never downloads a binary and never runs what it
// built.
package tools

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/modfile"

	"github.com/nationtech/harmony-fleet/release/compile"
)

// Tool is a program that Build can supply.
type Tool struct {
	name   string
	pkg    string // import path of its main package
	module *module
}

// String is the name of the program.
func (t Tool) String() string { return t.name }

// module is a folder beside this file with a go.mod. Its tools, which may be some of
// those that the go.mod has, are built as a whole: what they share is compiled once.
type module struct {
	folder string
	// part tells modules of one folder apart; "" when there is one.
	part string
	// source is the required module whose version is the version of the tools.
	source string
	// own says that the folder also has the source of the program's main package,
	// which then is part of what the cache knows it by.
	own bool
	// versionVars are the packages whose gitVersion and its kin the linker sets.
	versionVars []string
	// coldMinutes is how long the first build takes on two cores.
	coldMinutes int
	tools       []Tool
}

var kubernetesVersionVars = []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"}

var (
	kubernetes = &module{
		folder:      "kubernetes",
		source:      "k8s.io/kubernetes",
		versionVars: kubernetesVersionVars,
		coldMinutes: 6,
	}
	// What only a cluster with a node needs: tests do not wait for it.
	kubernetesNode = &module{
		folder:      "kubernetes",
		part:        "node",
		source:      "k8s.io/kubernetes",
		versionVars: kubernetesVersionVars,
		coldMinutes: 3,
	}
	coredns  = &module{folder: "coredns", source: "github.com/coredns/coredns", own: true, coldMinutes: 2}
	etcd     = &module{folder: "etcd", source: "go.etcd.io/etcd/server/v3", coldMinutes: 1}
	nats     = &module{folder: "nats", source: "github.com/nats-io/natscli", coldMinutes: 1}
	policies = &module{folder: "networkpolicies", source: "sigs.k8s.io/kube-network-policies", own: true, coldMinutes: 2}
	openbao  = &module{folder: "openbao", source: "github.com/hashicorp/vault", own: true, coldMinutes: 6}

	// KubeAPIServer, KubeControllerManager and Kubectl come from one build.
	KubeAPIServer         = kubernetes.tool("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver")
	KubeControllerManager = kubernetes.tool("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager")
	Kubectl               = kubernetes.tool("kubectl", "k8s.io/kubernetes/cmd/kubectl")
	// KubeScheduler, KubeProxy and Kubelet come from another.
	KubeScheduler = kubernetesNode.tool("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler")
	KubeProxy     = kubernetesNode.tool("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy")
	Kubelet       = kubernetesNode.tool("kubelet", "k8s.io/kubernetes/cmd/kubelet")
	// CoreDNS is the cluster's name server.
	CoreDNS = coredns.tool("coredns", "github.com/nationtech/harmony-fleet/smoke/tools/coredns")
	// Etcd is the etcd server.
	Etcd = etcd.tool("etcd", "go.etcd.io/etcd/server/v3")
	// NetworkPolicies enforces them on a node.
	NetworkPolicies = policies.tool("networkpolicies", "github.com/nationtech/harmony-fleet/smoke/tools/networkpolicies")
	// NATS is the NATS command line, called nats.
	NATS = nats.tool("nats", "github.com/nats-io/natscli/nats")
	// OpenBao is a server with OpenBao's API.
	OpenBao = openbao.tool("openbao", "github.com/nationtech/harmony-fleet/smoke/tools/openbao")
)

func (m *module) tool(name, pkg string) Tool {
	t := Tool{name: name, pkg: pkg, module: m}
	m.tools = append(m.tools, t)
	return t
}

// Build returns the path of the tool's binary. When the cache lacks it, all
// tools of its module are built from source, which takes minutes; progress then
// hears what happens and how long it has taken. Two processes that want the same
// tool build it once.
func Build(ctx context.Context, t Tool, progress io.Writer) (string, error) {
	root, err := sourceDir()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(root, t.module.folder)
	version, err := t.module.version(folder)
	if err != nil {
		return "", err
	}
	key, err := t.module.key(folder, version)
	if err != nil {
		return "", err
	}
	dir, err := Cached(ctx, key, func(dir string) error {
		return t.module.build(ctx, build{folder: folder, version: version, dir: dir, progress: progress})
	})
	if err != nil {
		return "", fmt.Errorf("building %s: %w", t, err)
	}
	return filepath.Join(dir, t.name), nil
}

// sourceDir finds this folder in the tree around the working directory.
func sourceDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the source tree: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		candidate := filepath.Join(dir, "smoke", "tools")
		if _, err := os.Stat(filepath.Join(candidate, kubernetes.folder, "go.mod")); err == nil {
			return candidate, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("finding the source tree: the working directory is not inside it")
		}
	}
}

// version reads the version of the tools from their go.mod.
func (m *module) version(folder string) (string, error) {
	content, err := os.ReadFile(filepath.Join(folder, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("reading the version of %s: %w", m.source, err)
	}
	file, err := modfile.ParseLax("go.mod", content, nil)
	if err != nil {
		return "", fmt.Errorf("reading the version of %s: %w", m.source, err)
	}
	for _, r := range file.Require {
		if r.Mod.Path == m.source {
			return r.Mod.Version, nil
		}
	}
	return "", fmt.Errorf("%s does not require %s", folder, m.source)
}

// key is what the cache knows the tools by: their version and, where the source
// is our own, a hash of the folder.
func (m *module) key(folder, version string) (string, error) {
	key := m.folder + "-" + version
	if m.part != "" {
		key = m.folder + "-" + m.part + "-" + version
	}
	if !m.own {
		return key, nil
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		return "", fmt.Errorf("reading the source of %s: %w", m.folder, err)
	}
	hash := sha256.New()
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(folder, file.Name()))
		if err != nil {
			return "", fmt.Errorf("reading the source of %s: %w", m.folder, err)
		}
		fmt.Fprintf(hash, "%s %d\n%s", file.Name(), len(content), content)
	}
	return fmt.Sprintf("%s-%.4x", key, hash.Sum(nil)), nil
}

type build struct {
	folder, version, dir string
	progress             io.Writer
}

func (m *module) build(ctx context.Context, b build) error {
	names := make([]string, len(m.tools))
	args := []string{"build", "-trimpath", "-buildvcs=false", compile.NoDebug, "-ldflags", m.ldflags(b.version), "-o", b.dir + "/"}
	for i, t := range m.tools {
		names[i] = t.name
		args = append(args, t.pkg)
	}
	what := strings.Join(names, ", ") + " " + b.version
	fmt.Fprintf(b.progress, "building %s from source (about %d min the first time)…\n", what, m.coldMinutes)
	begin := time.Now()
	stop := report(b.progress, what, begin)
	defer stop()

	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = b.folder
	// The caller's build tags and workspace are not for these modules.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build in %s: %w\n%s", b.folder, err, out)
	}
	for _, t := range m.tools {
		if built := binaryName(t.pkg); built != t.name {
			if err := os.Rename(filepath.Join(b.dir, built), filepath.Join(b.dir, t.name)); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(b.progress, "built %s in %s\n", what, time.Since(begin).Round(time.Second))
	return nil
}

// report writes the elapsed time every 15 s until the returned function is called.
func report(progress io.Writer, what string, begin time.Time) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(15 * time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				fmt.Fprintf(progress, "  still building %s (%s)\n", what, time.Since(begin).Round(time.Second))
			}
		}
	}()
	return func() { close(done); <-ended }
}

// binaryName is how the go command names the binary of a package: by the last
// element of its path that is not a major version.
func binaryName(pkg string) string {
	name := path.Base(pkg)
	if len(name) > 1 && name[0] == 'v' && strings.Trim(name[1:], "0123456789") == "" {
		return path.Base(path.Dir(pkg))
	}
	return name
}

// ldflags strips symbols and sets what the programs report as their version:
// built without, Kubernetes reports a placeholder that clients cannot parse.
func (m *module) ldflags(version string) string {
	flags := []string{"-s", "-w"}
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	for _, pkg := range m.versionVars {
		flags = append(flags,
			"-X "+pkg+".gitVersion="+version,
			"-X "+pkg+".gitMajor="+parts[0],
			"-X "+pkg+".gitMinor="+parts[1],
			"-X "+pkg+".gitTreeState=clean")
	}
	return strings.Join(flags, " ")
}
