// Command openbao serves OpenBao's API for tests: policies, tokens, the KV
// engine and JWT login, with all its data in one folder, so that a server that
// was killed goes on where it was. OpenBao itself cannot be had as a Go module;
// this is the core of the last Vault from before the fork, under the Mozilla
// Public License 2.0, in a module of its own so that nothing of it gets into the
// product. It never is fit for real secrets: it keeps the key that unseals it
// beside the data and talks without TLS.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/hashicorp/go-hclog"
	jwt "github.com/hashicorp/vault-plugin-auth-jwt"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/vault"
)

func main() {
	address := flag.String("address", "127.0.0.1:8200", "`host:port` to listen on")
	dir := flag.String("dir", "openbao", "`folder` of the data and the keys")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *address, *dir)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "openbao:", err)
		os.Exit(1)
	}
}

// run serves until ctx is done. It listens only once the data can be read, so
// that a client either is refused or finds a server that works.
func run(ctx context.Context, address, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the folder: %w", err)
	}
	core, err := newCore(filepath.Join(dir, "data"))
	if err != nil {
		return fmt.Errorf("making the core: %w", err)
	}
	if err := unseal(ctx, core, filepath.Join(dir, "keys.json")); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
		return errors.Join(server.Close(), core.Shutdown())
	}
}

func newCore(data string) (*vault.Core, error) {
	logger := hclog.New(&hclog.LoggerOptions{Name: "openbao", Level: hclog.Warn, Output: os.Stderr})
	backend, err := file.NewFileBackend(map[string]string{"path": data}, logger)
	if err != nil {
		return nil, err
	}
	return vault.NewCore(&vault.CoreConfig{
		Physical:           backend,
		StorageType:        "file",
		DisableMlock:       true, // it needs a capability that tests lack
		Logger:             logger,
		BuiltinRegistry:    noPlugins{},
		LogicalBackends:    map[string]logical.Factory{"kv": kv.Factory},
		CredentialBackends: map[string]logical.Factory{"jwt": jwt.Factory},
	})
}

// keys open the server: to its data and to everything that its API offers. The
// package that starts it reads them.
type keys struct {
	Unseal    []byte `json:"unseal"`
	RootToken string `json:"rootToken"`
}

// unseal opens the data with the keys in the file. When there is no data yet, it
// makes both.
func unseal(ctx context.Context, core *vault.Core, path string) error {
	opened, err := readKeys(path)
	if errors.Is(err, fs.ErrNotExist) {
		opened, err = initialize(ctx, core, path)
	}
	if err != nil {
		return err
	}
	if _, err := core.Unseal(opened.Unseal); err != nil {
		return fmt.Errorf("unsealing: %w", err)
	}
	if core.Sealed() {
		return errors.New("unsealing: the core is still sealed")
	}
	return nil
}

func readKeys(path string) (keys, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return keys{}, fmt.Errorf("reading the keys: %w", err)
	}
	var k keys
	if err := json.Unmarshal(content, &k); err != nil {
		return keys{}, fmt.Errorf("reading the keys in %s: %w", path, err)
	}
	return k, nil
}

func initialize(ctx context.Context, core *vault.Core, path string) (keys, error) {
	result, err := core.Initialize(ctx, &vault.InitParams{BarrierConfig: &vault.SealConfig{SecretShares: 1, SecretThreshold: 1}})
	if err != nil {
		return keys{}, fmt.Errorf("initializing: %w", err)
	}
	k := keys{Unseal: result.SecretShares[0], RootToken: result.RootToken}
	content, err := json.Marshal(k)
	if err != nil {
		return keys{}, fmt.Errorf("encoding the keys: %w", err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return keys{}, fmt.Errorf("keeping the keys: %w", err)
	}
	return k, nil
}

// noPlugins is the registry of what is built in besides the factories: nothing.
type noPlugins struct{}

func (noPlugins) Contains(string, consts.PluginType) bool { return false }

func (noPlugins) Get(string, consts.PluginType) (func() (any, error), bool) { return nil, false }

func (noPlugins) Keys(consts.PluginType) []string { return nil }

func (noPlugins) DeprecationStatus(string, consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Unknown, false
}

func (noPlugins) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
