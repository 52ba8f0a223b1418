package images

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/release/version"
)

// Tags leave out what needs C: those of the Makefile, for a go command that was not
// started by it.
const Tags = "remote,containers_image_openpgp,exclude_graphdriver_btrfs,exclude_graphdriver_devicemapper"

// compile puts the programs of all images, for one architecture, into the folder
// dir. Nothing of the machine gets into them: no path, no user's settings, no
// newer instructions than the architecture's oldest.
func (b Build) compile(ctx context.Context, arch, dir string) error {
	args := []string{
		"build", "-v", "-trimpath", "-buildvcs=false", "-tags=" + Tags,
		"-ldflags=-s -w -X main.version=" + version.Tag, "-o", dir + "/",
	}
	var names []string
	for _, p := range b.programs() {
		args = append(args, module+"/"+string(p))
		names = append(names, p.Name())
	}
	fmt.Fprintf(b.Progress, "compiling %s for linux/%s\n", strings.Join(names, ", "), arch)
	output := &packageLines{to: b.Progress, begin: time.Now()}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = b.Source.Root, output, output
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0",
		"GOFLAGS=-mod=readonly", "GOWORK=off")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("compiling %s for linux/%s: %w\n%s", strings.Join(names, ", "), arch, err, output.rest.Bytes())
	}
	return nil
}

// programs are those of all images, each once.
func (b Build) programs() []Program {
	var all []Program
	for _, i := range b.Images {
		all = append(all, i.Programs...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// quiet is how long a build says nothing; a shorter one is silent.
const quiet = 15 * time.Second

// packageLines takes what the go command writes: a line for each package that it
// compiles, of which it shows one now and then, and everything else, which it
// keeps for the error.
type packageLines struct {
	to       io.Writer
	begin    time.Time
	shown    time.Duration // since begin
	compiled int
	partial  []byte
	rest     bytes.Buffer
}

// Write takes any part of the output.
func (p *packageLines) Write(data []byte) (int, error) {
	p.partial = append(p.partial, data...)
	for {
		line, rest, whole := bytes.Cut(p.partial, []byte("\n"))
		if !whole {
			return len(data), nil
		}
		p.line(string(line))
		p.partial = rest
	}
}

func (p *packageLines) line(line string) {
	if line == "" || strings.ContainsAny(line, " :") {
		p.rest.WriteString(line + "\n")
		return
	}
	p.compiled++
	if elapsed := time.Since(p.begin); elapsed-p.shown >= quiet {
		p.shown = elapsed
		fmt.Fprintf(p.to, "  %d packages compiled (%s)\n", p.compiled, elapsed.Round(time.Second))
	}
}
