package repository_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// workflow is what the rules are about.
type workflow struct {
	Permissions map[string]string `yaml:"permissions"`
	Jobs        map[string]struct {
		Permissions map[string]string `yaml:"permissions"`
		Steps       []struct {
			Uses yaml.Node `yaml:"uses"`
			Run  string    `yaml:"run"`
		} `yaml:"steps"`
	} `yaml:"jobs"`
}

// preparations are what a workflow may run beside make: the logins of a release.
var preparations = []*regexp.Regexp{
	regexp.MustCompile(`^printf '%s' "\$PASSWORD" \| docker login [^&;|]*$`),
	regexp.MustCompile(`^\(umask 077 && printf '%s' "\$COSIGN_KEY" >"\$RUNNER_TEMP/cosign.key"\)$`),
}

var (
	// pinned is an action by the digest of its commit: a tag can be moved.
	pinned = regexp.MustCompile(`^[a-z0-9-]+/[a-z0-9./-]+@[0-9a-f]{40}$`)
	named  = regexp.MustCompile(`^# v[0-9]+\.[0-9]+\.[0-9]+$`)
	made   = regexp.MustCompile(`^(?:sudo --preserve-env env "PATH=\$PATH" )?make ([a-z0-9-]+)(?: [A-Z]+=\S+)*$`)
)

// TestWorkflows: what a workflow does anybody can do with make, nothing that others
// can change runs in one, and none may write to the repository.
func TestWorkflows(t *testing.T) {
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(".github/workflows/*")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 3 {
		t.Errorf("there are %v alone", files)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var w workflow
		if err := yaml.Unmarshal(data, &w); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if len(w.Permissions) != 1 || w.Permissions["contents"] != "read" {
			t.Errorf("%s: permissions are %v, want contents: read alone", file, w.Permissions)
		}
		makes := 0
		for name, job := range w.Jobs {
			if job.Permissions != nil {
				t.Errorf("%s: the job %s has permissions of its own", file, name)
			}
			for _, step := range job.Steps {
				if uses := step.Uses.Value; uses != "" && (!pinned.MatchString(uses) || !named.MatchString(step.Uses.LineComment)) {
					t.Errorf("%s: %s %s is not pinned by a digest with its version behind", file, uses, step.Uses.LineComment)
				}
				if step.Run == "" || slices.ContainsFunc(preparations, func(p *regexp.Regexp) bool { return p.MatchString(step.Run) }) {
					continue
				}
				target := made.FindStringSubmatch(step.Run)
				if target == nil || !strings.Contains(string(makefile), "\n"+target[1]+": ") {
					t.Errorf("%s: %q is no call of a target of the Makefile", file, step.Run)
				}
				makes++
			}
		}
		if makes == 0 {
			t.Errorf("%s: nothing is made", file)
		}
	}
}
