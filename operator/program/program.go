// Package program is what the programs of the cluster have in common: reading a
// configuration file, finding the cluster, the log, the version, and serving probes
// and metrics. It knows nothing of what they do.
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/yaml"
)

// ReadConfig reads a YAML file over what c holds. Errors name the file and the
// field.
func ReadConfig[T interface{ Validate() error }](file string, c T) (T, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return c, fmt.Errorf("reading the configuration: %w", err)
	}
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return c, fmt.Errorf("configuration %s: %w", file, err)
	}
	if err := c.Validate(); err != nil {
		return c, fmt.Errorf("configuration %s: %w", file, err)
	}
	return c, nil
}

// KubeConfig finds the cluster: the flag, $KUBECONFIG, or the pod's own account.
func KubeConfig(file string) (*rest.Config, error) {
	if file == "" && os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" {
		c, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("finding the cluster: not in a pod, and neither --kubeconfig nor $KUBECONFIG is set: %w", err)
		}
		return c, nil
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = file
	c, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	return c, nil
}

// Example is a configuration as YAML, indented for a help text.
func Example(c any) string {
	data, err := yaml.Marshal(c)
	if err != nil {
		panic(errors.Join(errors.New("encoding an example"), err)) // strings and numbers alone
	}
	return "  " + strings.ReplaceAll(strings.TrimSuffix(string(data), "\n"), "\n", "\n  ") + "\n"
}

// Logger writes JSON lines; the libraries' own messages go the same way.
func Logger(to io.Writer, level string) logr.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo // Validate has refused unknown levels already
	}
	log := logr.FromSlogHandler(slog.NewJSONHandler(to, &slog.HandlerOptions{Level: l}))
	ctrl.SetLogger(log)
	klog.SetLogger(log.WithName("client"))
	return log
}

// Version is what the linker set, else what the go tool knows.
func Version(linked string) string {
	if linked != "" {
		return linked
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

// Serve serves HTTP at the address until ctx ends. It listens before it returns,
// and does nothing for the address "0".
func Serve(ctx context.Context, address string, handler http.Handler) error {
	if address == "0" {
		return nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() { _ = server.Serve(listener) }() // ends with ErrServerClosed
	return nil
}
