// Package programs builds this module's own commands for tests, measurements and
// the demo, as a release has them: without cgo, debug information and paths. It
// never runs one, and never builds anybody else's (package tools does).
package programs

import (
	"context"
	"fmt"
	"os"
	"os/exec"

	"github.com/nationtech/harmony-fleet/release/compile"
)

// Command is a command of this module, by its folder. Its program has the name of
// the folder's last part.
type Command string

// The commands.
const (
	Operator Command = "operator/cmd/fleet-operator"
	Callout  Command = "operator/cmd/fleet-callout"
	Kubectl  Command = "operator/cmd/kubectl-fleet"
	Agent    Command = "agent/cmd/fleet-agent"
	Broker   Command = "smoke/broker/cmd/fleet-broker"
)

// Build puts the programs into the folder dir. They say that they are of the
// version; of the commit that they were built from when it is empty. The working
// directory must be inside the module, and the error has what the compiler said.
func Build(ctx context.Context, dir, version string, commands ...Command) error {
	ldflags := "-s -w"
	if version != "" {
		ldflags += " -X main.version=" + version
	}
	args := []string{"build", "-trimpath", "-tags=" + compile.Tags, compile.NoDebug, "-ldflags=" + ldflags, "-o", dir + "/"}
	for _, c := range commands {
		args = append(args, compile.Module+"/"+string(c))
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %v: %w\n%s", commands, err, out)
	}
	return nil
}
