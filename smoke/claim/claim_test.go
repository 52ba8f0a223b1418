package claim

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Only a folder that is complete and nobody's is removed.
func TestReap(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	folder := func(name string, files ...string) string {
		dir := filepath.Join(os.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	left := folder("thing-left", "mark")
	used := folder("thing-used", "mark")
	folder("thing-beginning")
	folder("other", "mark")
	owner, err := Take(used)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Take(used); err == nil {
		t.Error("a folder is claimed twice")
	}
	var removed []string
	reap := func() {
		err := Reap("thing-", "mark", func(dir string) error {
			removed = append(removed, dir)
			return os.RemoveAll(dir)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if reap(); !slices.Equal(removed, []string{left}) {
		t.Errorf("removed %v, want %s alone", removed, left)
	}
	owner.Close()
	if reap(); !slices.Equal(removed, []string{left, used}) {
		t.Errorf("removed %v, want also %s", removed, used)
	}
}
