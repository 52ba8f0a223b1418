// Package source says which commit a tree is of, so that what is built can name
// it and bears its date instead of the clock's. It asks git, and never changes
// anything.
package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Repository is where the source is published.
const Repository = "https://github.com/nationtech/harmony-fleet"

// Source is the state of a tree.
type Source struct {
	// Root is the folder of the tree.
	Root string
	// Commit is what is checked out, 40 hexadecimal digits.
	Commit string
	// Time is when the commit was made. Everything that is built is dated so: the
	// same commit gives the same bytes.
	Time time.Time
	// Changes are the files that differ from the commit or are not in it.
	Changes []string
}

// Read asks git about the tree around the folder dir.
func Read(ctx context.Context, dir string) (Source, error) {
	root, err := git(ctx, dir, "rev-parse", "--show-toplevel")
	if err != nil {
		return Source{}, err
	}
	head, err := git(ctx, dir, "show", "--no-patch", "--format=%H %ct", "HEAD")
	if err != nil {
		return Source{}, err
	}
	status, err := git(ctx, root, "status", "--porcelain")
	if err != nil {
		return Source{}, err
	}
	commit, date, _ := strings.Cut(head, " ")
	seconds, err := strconv.ParseInt(date, 10, 64)
	if err != nil {
		return Source{}, fmt.Errorf("reading the date of the commit %s: %w", commit, err)
	}
	s := Source{Root: root, Commit: commit, Time: time.Unix(seconds, 0).UTC()}
	for line := range strings.Lines(status) {
		if fields := strings.Fields(line); len(fields) > 1 {
			s.Changes = append(s.Changes, strings.Join(fields[1:], " "))
		}
	}
	return s, nil
}

// Revision names the commit, and says so when the tree is not quite that.
func (s Source) Revision() string {
	if len(s.Changes) > 0 {
		return s.Commit + "-dirty"
	}
	return s.Commit
}

// named is how many changed files an error lists.
const named = 5

// Clean is an error that names what no commit has: nobody could build that again.
func (s Source) Clean() error {
	if len(s.Changes) == 0 {
		return nil
	}
	list := strings.Join(s.Changes[:min(named, len(s.Changes))], ", ")
	if more := len(s.Changes) - named; more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Errorf("the tree differs from its commit %.12s (%s): a release is made from a commit alone, so commit or stash that first", s.Commit, list)
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	var problem bytes.Buffer
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Stderr = dir, &problem
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("asking git which commit %s is of: %w", dir, errors.Join(err, errors.New(strings.TrimSpace(problem.String()))))
	}
	return strings.TrimRight(string(out), "\n"), nil
}
