package images

import (
	"archive/tar"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// TestUpstream: the images bear the names that the chart asks for, and what they
// run runs here.
func TestUpstream(t *testing.T) {
	tests := map[string]struct {
		make func(context.Context, io.Writer) (Upstream, error)
		name string
		args []string
		says string
	}{
		"NATS": {NATS, "nats:2.15.2", []string{"--version"}, "v2.15.2"},
		"NACK": {NACK, "natsio/jetstream-controller:0.22.4", []string{"-h"}, "-control-loop"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			made, err := tc.make(t.Context(), os.Stderr)
			one := digest(t, made.Image, err)
			again, err := tc.make(t.Context(), os.Stderr)
			if two := digest(t, again.Image, err); made.Name != tc.name || one != two {
				t.Errorf("%s is %s, then %s; want the name %s", made.Name, one, two, tc.name)
			}
			config, err := made.Image.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			flat := mutate.Extract(made.Image)
			defer flat.Close()
			program := filepath.Join(t.TempDir(), "program")
			for r := tar.NewReader(flat); ; {
				header, err := r.Next()
				if err != nil {
					t.Fatal(err)
				}
				if "/"+header.Name != config.Config.Entrypoint[0] {
					continue
				}
				content, err := io.ReadAll(r)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(program, content, 0o700); err != nil {
					t.Fatal(err)
				}
				break
			}
			if out, err := exec.Command(program, tc.args...).CombinedOutput(); err != nil || !strings.Contains(string(out), tc.says) {
				t.Errorf("%v says %q, %v; want %q", tc.args, out, err, tc.says)
			}
		})
	}
}
