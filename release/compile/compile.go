// Package compile builds programs of this module as a release has them: linked
// statically, and with the same bytes on every machine. It knows nothing of what they
// are put into.
package compile

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/release/version"
)

// Tags leave out what needs C: those of the Makefile, for a go command that was not
// started by it.
const Tags = "remote,containers_image_openpgp,exclude_graphdriver_btrfs,exclude_graphdriver_devicemapper"

// NoDebug has the compiler leave out what a debugger would read. Stripped programs have
// none of it, and it takes an eighth of the compiler's time. It is that of the Makefile
// too: what is compiled without is not found compiled with it.
const NoDebug = "-gcflags=all=-dwarf=false"

// Module is the one whose programs are built.
const Module = "github.com/nationtech/harmony-fleet"

// Program is a command of this module, by its folder. Its file is named for the
// folder's last part.
type Program string

// Name is the name of the program's file.
func (p Program) Name() string { return path.Base(string(p)) }

// Build says what to compile.
type Build struct {
	Root         string // folder of the tree
	Programs     []Program
	Architecture string // as Go names it
	// Version that the programs report; "" means the tree's.
	Version  string
	Dir      string    // where the programs get
	Progress io.Writer // hears what is done, a line at a time
}

// Run compiles. Nothing of the machine gets into the programs: no path, no user's
// settings, no newer instructions than the architecture's oldest.
func (b Build) Run(ctx context.Context) error {
	version := version.Tag
	if b.Version != "" {
		version = b.Version
	}
	args := []string{
		"build", "-v", "-trimpath", "-buildvcs=false", "-tags=" + Tags, NoDebug,
		"-ldflags=-s -w -X main.version=" + version, "-o", b.Dir + "/",
	}
	var names []string
	for _, p := range b.Programs {
		args = append(args, Module+"/"+string(p))
		names = append(names, p.Name())
	}
	what := fmt.Sprintf("compiling %s for linux/%s", strings.Join(names, ", "), b.Architecture)
	fmt.Fprintln(b.Progress, what)
	output := &packageLines{to: b.Progress, begin: time.Now()}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = b.Root, output, output
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+b.Architecture, "GOAMD64=v1", "GOARM64=v8.0",
		"GOFLAGS=-mod=readonly", "GOWORK=off")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", what, err, output.rest.Bytes())
	}
	return nil
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
