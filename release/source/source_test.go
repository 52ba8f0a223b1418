package source

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func repository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "main.go")
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"commit", "-q", "-m", "begin"}} {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com",
			"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_COMMITTER_DATE=2026-02-03T04:05:06+02:00")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	return dir
}

func write(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, dir string) Source {
	t.Helper()
	s, err := Read(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRead(t *testing.T) {
	dir := repository(t)
	s := read(t, dir)
	if want := time.Date(2026, 2, 3, 2, 5, 6, 0, time.UTC); !s.Time.Equal(want) || s.Time.Location() != time.UTC {
		t.Errorf("Time = %s, want %s", s.Time, want)
	}
	if len(s.Commit) != 40 || s.Revision() != s.Commit || s.Clean() != nil {
		t.Errorf("a clean tree is %+v, %v", s, s.Clean())
	}
}

func TestChanges(t *testing.T) {
	dir := repository(t)
	write(t, dir, "new.go")
	if s := read(t, dir); s.Revision() != s.Commit+"-dirty" || !says(s.Clean(), "(new.go)") {
		t.Errorf("with a file that git does not know: %s, %v", s.Revision(), s.Clean())
	}
	for i := range 9 {
		write(t, dir, fmt.Sprintf("f%d.go", i))
	}
	if s := read(t, dir); !says(s.Clean(), "f4.go and 5 more") {
		t.Errorf("with ten files: %v", s.Clean())
	}
}

func says(err error, words string) bool { return err != nil && strings.Contains(err.Error(), words) }

func TestReadOutside(t *testing.T) {
	if _, err := Read(t.Context(), t.TempDir()); !says(err, "asking git which commit") || !says(err, "not a git repository") {
		t.Errorf("got %v", err)
	}
}
