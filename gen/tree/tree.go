// Package tree holds generated files in memory, so that one generator run can
// either be written to disk or be compared with what is there. It never makes up
// content and never touches a file that is not in the tree.
package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-cmp/cmp"
)

// Tree maps slash-separated paths, relative to the repository's root, to the
// content of the files.
type Tree map[string][]byte

// Paths lists the files in order.
func (t Tree) Paths() []string {
	paths := make([]string, 0, len(t))
	for path := range t {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}

// Write puts every file that differs below root and returns their paths.
func (t Tree) Write(root string) (written []string, err error) {
	for _, path := range t.Paths() {
		file := filepath.Join(root, filepath.FromSlash(path))
		if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, t[path]) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return written, fmt.Errorf("making the folder of %s: %w", path, err)
		}
		if err := os.WriteFile(file, t[path], 0o644); err != nil {
			return written, fmt.Errorf("writing %s: %w", path, err)
		}
		written = append(written, path)
	}
	return written, nil
}

// Drift describes each file below root that is missing or differs; it is empty
// when none does.
func (t Tree) Drift(root string) ([]string, error) {
	var drift []string
	for _, path := range t.Paths() {
		old, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(path)))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			drift = append(drift, path+" is missing")
		case err != nil:
			return nil, fmt.Errorf("reading %s: %w", path, err)
		case !bytes.Equal(old, t[path]):
			drift = append(drift, path+" differs (- on disk, + generated):\n"+cmp.Diff(string(old), string(t[path])))
		}
	}
	return drift, nil
}
