package argocd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Repository is a git repository in a folder of this machine.
type Repository struct{ dir string }

// NewRepository makes one, without a commit, in a folder that is not there yet.
func NewRepository(ctx context.Context, dir string) (Repository, error) {
	r := Repository{dir}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return r, fmt.Errorf("making a repository: %w", err)
	}
	_, err := r.git(ctx, "init", "--quiet", "--initial-branch=main")
	return r, err
}

// URL by which Argo CD on this machine reads it.
func (r Repository) URL() string { return "file://" + r.dir }

// Path of a file in it.
func (r Repository) Path(name string) string { return filepath.Join(r.dir, filepath.FromSlash(name)) }

// Copy puts a folder into it by the name.
func (r Repository) Copy(folder, name string) error { return os.CopyFS(r.Path(name), os.DirFS(folder)) }

// Write puts a file into it.
func (r Repository) Write(name string, content []byte) error {
	path := r.Path(name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
		return fmt.Errorf("writing %s into a repository: %w", name, err)
	}
	return nil
}

// Commit commits everything in the folder, as it is, to the branch main.
func (r Repository) Commit(ctx context.Context, message string) error {
	if _, err := r.git(ctx, "add", "--all"); err != nil {
		return err
	}
	_, err := r.git(ctx, "-c", "user.name=story", "-c", "user.email=story@example.com", "commit", "--quiet", "--message", message)
	return err
}

// Head is the commit that the branch is at.
func (r Repository) Head(ctx context.Context) (string, error) { return r.git(ctx, "rev-parse", "HEAD") }

func (r Repository) git(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	// What a person has set, such as signatures, is not for this one.
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	cmd.Dir = r.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %v: %w\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
