// Command fleet-agent runs the containers of a fleet on this device. It parses
// its arguments and exits; package agent does the work.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/go-logr/logr"

	"github.com/nationtech/harmony-fleet/agent"
	"github.com/nationtech/harmony-fleet/agent/config"
	"github.com/nationtech/harmony-fleet/agent/status"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

// version is set when a release is linked.
var version = ""

const usage = `fleet-agent keeps the containers running that the fleet wants on this device.

Usage:
  fleet-agent [COMMAND] [--config FILE]

Commands:
  join     make this device one of a fleet; fleet-agent join --help says how.
  run      work until SIGTERM or SIGINT; the default. Containers keep running after it.
  check    try out the configuration, podman, the broker and OpenBao, and say what is wrong.
  status   show what runs here and why, also while the agent is down.
  version  print the version.

The configuration is FILE, else $` + config.Environment + `, else ` + config.DefaultPath + `
(~/.config/` + config.UserPath + ` for a user who is not root), and the files conf.d/*.toml
beside it, which win over it in the order of their names.

Exit codes: 0 all is well, 1 something is wrong, 2 the command line is wrong.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := program{in: os.Stdin, out: os.Stdout, err: os.Stderr}.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// program is where the input comes from and the output goes.
type program struct {
	in       io.Reader
	out, err io.Writer
}

// run does what the arguments say and returns the exit code.
func (p program) run(ctx context.Context, args []string) int {
	if len(args) > 0 && args[0] == "join" {
		return p.join(ctx, args[1:])
	}
	command, path, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(p.out, usage)
		return 0
	case err != nil:
		fmt.Fprintf(p.err, "fleet-agent: %v\n\n%s", err, usage)
		return 2
	}
	switch command {
	case "version":
		fmt.Fprintln(p.out, buildVersion())
		return 0
	case "run":
		err = p.work(ctx, path)
	case "check":
		return p.check(ctx, path)
	case "status":
		err = p.status(ctx, path)
	}
	if err != nil {
		fmt.Fprintf(p.err, "fleet-agent %s: %v\n", command, err)
		return 1
	}
	return 0
}

// parse takes the flag before and after the command.
func parse(args []string) (command, path string, err error) {
	flags := flag.NewFlagSet("fleet-agent", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&path, "config", config.Path(), "")
	if err := flags.Parse(args); err != nil {
		return "", "", err
	}
	if command = "run"; flags.NArg() > 0 {
		command = flags.Arg(0)
		if err := flags.Parse(flags.Args()[1:]); err != nil {
			return "", "", err
		}
	}
	switch command {
	case "run", "check", "status", "version":
	case "help":
		return "", "", flag.ErrHelp
	default:
		return "", "", fmt.Errorf("unknown command %q", command)
	}
	if flags.NArg() > 0 {
		return "", "", fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return command, path, nil
}

func (p program) work(ctx context.Context, path string) error {
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	return agent.Run(ctx, cfg, agent.Options{Version: buildVersion(), Log: p.logger(cfg)})
}

func (p program) status(ctx context.Context, path string) error {
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	view, err := status.Read(ctx, cfg)
	if err != nil {
		return err
	}
	return view.Print(p.out, time.Now())
}

// logger writes lines of key=value. The journal has its own time for each.
func (p program) logger(cfg v1alpha1.AgentConfig) logr.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Agent.LogLevel)); err != nil {
		level = slog.LevelInfo // Validate lets no other level through
	}
	options := &slog.HandlerOptions{Level: level}
	if os.Getenv("JOURNAL_STREAM") != "" {
		options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return logr.FromSlogHandler(slog.NewTextHandler(p.err, options))
}

// buildVersion is what was linked in, else what the go tool knows.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
