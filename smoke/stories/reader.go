package stories

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/nationtech/harmony-fleet/smoke/document"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// reader does what a document for people says, as it stands there.
type reader struct {
	*installation // in whose folder the commands are run
	name          string
	blocks        map[string][]string // by their sections
	bin           string              // folder of the programs that they name
}

// read reads a document of the tree, and lays what its commands need ready: kubectl, a
// version of Helm, and the folders that they name.
func (i *installation) read(ctx context.Context, name string, helm tools.Tool) (*reader, error) {
	text, err := os.ReadFile(filepath.Join(i.tree.Root, name))
	if err != nil {
		return nil, err
	}
	r := &reader{installation: i, name: name, blocks: document.Blocks(string(text)), bin: filepath.Join(i.dir, "bin")}
	program, err := tools.Build(ctx, helm, i.Progress())
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(r.bin, 0o700); err != nil {
		return nil, err
	}
	links := map[string]string{filepath.Join(r.bin, "helm"): program, filepath.Join(r.bin, "kubectl"): i.Program()}
	for _, folder := range []string{"charts", "kustomize"} {
		links[filepath.Join(i.dir, folder)] = filepath.Join(i.tree.Root, folder)
	}
	for link, to := range links {
		err = errors.Join(err, os.Symlink(to, link))
	}
	return r, err
}

// block is the one with that number in a section; "" when there is none, which no
// command is.
func (r *reader) block(section string, number int) string {
	if blocks := r.blocks[section]; number < len(blocks) {
		return blocks[number]
	}
	return ""
}

// line is the one with that number in a section's first block, "" likewise.
func (r *reader) line(section string, number int) string {
	if lines := strings.Split(r.block(section, 0), "\n"); number < len(lines) {
		return lines[number]
	}
	return ""
}

// follow runs a block.
func (r *reader) follow(ctx context.Context, section string, number int) error {
	_, err := r.run(ctx, r.block(section, number))
	return err
}

// run has a shell run commands of the document, and returns what it wrote.
func (r *reader) run(ctx context.Context, commands string) (string, error) {
	if commands == "" {
		return "", fmt.Errorf("%s does not have the commands any more that are to be run here", r.name)
	}
	cmd := exec.CommandContext(ctx, "sh", "-e", "-c", commands)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "KUBECONFIG="+r.Kubeconfig(), "PATH="+r.bin+":"+os.Getenv("PATH"),
		"HELM_CACHE_HOME="+r.dir, "HELM_CONFIG_HOME="+r.dir, "HELM_DATA_HOME="+r.dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = errors.Join(fmt.Errorf("%s: %w\n%s", commands, err, out), r.logs(ctx))
	}
	return string(out), err
}
