package packages

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/nationtech/harmony-fleet/release/source"
)

// build makes all packages of the tree around root into a folder.
func build(t *testing.T, root string) []Package {
	t.Helper()
	tree, err := source.Read(context.Background(), ".")
	if err != nil {
		t.Fatal(err)
	}
	if root != "" {
		tree.Root = root
	}
	made, err := Build{Source: tree, Architectures: Architectures, Progress: t.Output()}.Agent(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// TestReproducible makes the packages twice.
func TestReproducible(t *testing.T) {
	first, second := build(t, ""), build(t, "")
	if len(first) != len(Formats)*len(Architectures) {
		t.Errorf("there are %d packages", len(first))
	}
	for i, p := range first {
		one, err := os.ReadFile(p.Path)
		if err != nil {
			t.Fatal(err)
		}
		two, err := os.ReadFile(second[i].Path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one, two) {
			t.Errorf("%s differs from one time to the next", filepath.Base(p.Path))
		}
		if mb := float64(p.Bytes) / 1e6; mb > 15 {
			t.Errorf("%s has %.1f MB; the aim is 15", filepath.Base(p.Path), mb)
		}
	}
}
