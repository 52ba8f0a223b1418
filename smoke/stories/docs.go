package stories

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// docs follows docs/install.md with Helm: its blocks are run as they stand, by a
// shell that finds the charts beside it.
func docs(ctx context.Context, c *cluster.Cluster) error {
	return installing(ctx, c, func(i *installation) error {
		if err := i.supply(ctx); err != nil {
			return err
		}
		r := reader{installation: i}
		if err := r.open(ctx, "docs/install.md"); err != nil {
			return err
		}
		for _, step := range []struct {
			what string
			run  func() error
		}{
			{"With Helm: it is installed, and helm test finds that it works", func() error { return r.follow(ctx, "With Helm", 0) }},
			{"Let devices in: the values are taken", func() error { return r.letIn(ctx) }},
			{"Remove: what people and devices own stays", func() error {
				if err := r.follow(ctx, "Remove", 0); err != nil {
					return err
				}
				_, err := i.Kubectl(ctx, "", "--namespace="+namespace, "get", "secret/"+product+"-keys", "stream/"+product+"-desired-state")
				return err
			}},
			{"and then goes too", func() error {
				if err := r.follow(ctx, "Remove", 1); err != nil {
					return err
				}
				return r.nothingLeft(ctx)
			}},
		} {
			if err := i.Step(step.what, step.run); err != nil {
				return err
			}
		}
		return nil
	})
}

// letIn changes the installation by the document's values.
func (r *reader) letIn(ctx context.Context) error {
	const section = "Let devices in"
	if err := os.WriteFile(filepath.Join(r.dir, "values.yaml"), []byte(r.block(section, 0)), 0o600); err != nil {
		return err
	}
	if err := r.follow(ctx, section, 1); err != nil {
		return err
	}
	return r.until(ctx, "tls://nats.example.com:4222", "--namespace="+namespace, "get", "configmap", "fleet-public", "--output=jsonpath={.data.natsURL}")
}

// ours are names of what is the whole cluster's.
var ours = regexp.MustCompile(`(?m)^.*(/fleet-downgrades|/harmony-fleet|\.fleet\.nationtech\.io|\.jetstream\.nats\.io).*$`)

// nothingLeft looks for what is in no namespace; the namespace is gone.
func (r *reader) nothingLeft(ctx context.Context) error {
	const kinds = "customresourcedefinitions,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings"
	all, err := r.Kubectl(ctx, "", "get", kinds, "--output=name")
	if left := ours.FindAllString(all, -1); err == nil && left != nil {
		err = fmt.Errorf("there is still %s", left)
	}
	return err
}

// reader does what a document says.
type reader struct {
	*installation // whose folder the commands are run in
	sections      map[string][]string
}

// open reads a document of the tree, and lays what its commands need ready: the
// programs, and the folders that they name.
func (r *reader) open(ctx context.Context, document string) error {
	text, err := os.ReadFile(filepath.Join(r.tree.Root, document))
	if err != nil {
		return err
	}
	r.sections = sections(string(text))
	helm, err := tools.Build(ctx, tools.Helm, r.Progress())
	if err != nil {
		return err
	}
	bin := filepath.Join(r.dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		return err
	}
	return errors.Join(
		os.Symlink(helm, filepath.Join(bin, "helm")), os.Symlink(r.Program(), filepath.Join(bin, "kubectl")),
		os.Symlink(filepath.Join(r.tree.Root, "charts"), filepath.Join(r.dir, "charts")),
	)
}

// sections are the blocks of each section of a document in Markdown: lines that are
// indented by four spaces, without them.
func sections(text string) map[string][]string {
	all, name, inside := map[string][]string{}, "", false
	for line := range strings.Lines(text) {
		if heading, found := strings.CutPrefix(line, "## "); found {
			name = strings.TrimSpace(heading)
		}
		code, indented := strings.CutPrefix(line, "    ")
		switch blocks := all[name]; {
		case indented && inside:
			blocks[len(blocks)-1] += code
		case indented:
			all[name] = append(blocks, code)
		}
		inside = indented
	}
	return all
}

// block is the one with that number in a section; "" when there is none, which no
// command is.
func (r *reader) block(section string, number int) string {
	if blocks := r.sections[section]; number < len(blocks) {
		return blocks[number]
	}
	return ""
}

// follow runs a block.
func (r *reader) follow(ctx context.Context, section string, number int) error {
	block := r.block(section, number)
	if block == "" {
		return fmt.Errorf("the section %q has no block %d", section, number)
	}
	cmd := exec.CommandContext(ctx, "sh", "-e", "-c", block)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "KUBECONFIG="+r.Kubeconfig(), "PATH="+filepath.Join(r.dir, "bin")+":"+os.Getenv("PATH"),
		"HELM_CACHE_HOME="+r.dir, "HELM_CONFIG_HOME="+r.dir, "HELM_DATA_HOME="+r.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("%s: %w\n%s", block, err, out), r.logs(ctx))
	}
	return nil
}
