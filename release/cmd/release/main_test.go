package main

import (
	"bytes"
	"crypto/elliptic"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/nationtech/harmony-fleet/release/version"
)

// run runs the command and returns what it wrote and its error's text.
func run(t *testing.T, args ...string) (out, problem string) {
	t.Helper()
	var written bytes.Buffer
	cmd := command()
	cmd.SetArgs(args)
	cmd.SetOut(&written)
	cmd.SetErr(&written)
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		problem = err.Error()
	}
	return written.String(), problem
}

// key is the file of a signing key.
func key(t *testing.T) string {
	t.Helper()
	private, _, err := cryptoutils.GeneratePEMEncodedECDSAKeyPair(elliptic.P256(), nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, private, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestHelp(t *testing.T) {
	tests := map[string]struct {
		args []string
		has  []string
	}{
		"the command": {[]string{"--help"}, []string{"images", "push", version.Number, "docs/release.md"}},
		"images":      {[]string{"images", "--help"}, []string{"OCI image layout", "--out", "dist/images", "podman pull oci:"}},
		"push":        {[]string{"push", "--help"}, []string{"--registry", "--key", "COSIGN_PASSWORD", "podman login", "run it again"}},
		"version":     {[]string{"--version"}, []string{version.Tag}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			out, problem := run(t, tc.args...)
			for _, words := range tc.has {
				if problem != "" || !strings.Contains(out, words) {
					t.Errorf("%v lacks %q: %s%s", tc.args, words, out, problem)
				}
			}
		})
	}
}

// TestBadInput: each mistake is named before anything is built.
func TestBadInput(t *testing.T) {
	tests := map[string]struct {
		args []string
		err  string
	}{
		"no registry":          {[]string{"push", "--key", key(t)}, "no registry: REGISTRY is a host and a path"},
		"a scheme":             {[]string{"push", "--registry", "https://registry.example/x", "--key", key(t)}, `leave out "https://"`},
		"no key":               {[]string{"push", "--registry", "registry.example/x"}, "no signing key: KEY is the file of a private key"},
		"another tag":          {[]string{"push", "--registry", "registry.example/x", "--key", key(t), "--tag", "v0.0.0"}, `--tag: "v0.0.0" is not the tag of this version, ` + version.Tag},
		"a key that is none":   {[]string{"push", "--registry", "registry.example/x", "--key", "main.go"}, "reading the signing key main.go"},
		"a strange machine":    {[]string{"images", "--arch", "amd64,vax"}, `--arch: "vax" is not one of amd64, arm64`},
		"no machine":           {[]string{"images", "--arch", ""}, "--arch: name at least one of amd64, arm64"},
		"an argument too many": {[]string{"images", "amd64"}, "unknown command"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if out, problem := run(t, tc.args...); !strings.Contains(problem, tc.err) || strings.Contains(out, "compiling") {
				t.Errorf("%v: %q, want %q; it wrote %q", tc.args, problem, tc.err, out)
			}
		})
	}
}

// TestDirtyTree: what is in no commit is not released.
func TestDirtyTree(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{{"init", "-q"}, {"-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "--allow-empty", "-m", "begin"}} {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	file := key(t)
	if err := os.WriteFile(filepath.Join(dir, "new.go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	if out, problem := run(t, "push", "--registry", "127.0.0.1:1/x", "--key", file); !strings.Contains(problem, "new.go") || !strings.Contains(problem, "commit or stash that first") || strings.Contains(out, "compiling") {
		t.Errorf("got %q, %s", problem, out)
	}
	t.Chdir(t.TempDir())
	if _, problem := run(t, "images"); !strings.Contains(problem, "not a git repository") {
		t.Errorf("outside of a tree: %q", problem)
	}
}
