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
  fleet-agent logs [NAMESPACE/DEPLOYMENT[/SERVICE]] [--tail LINES] [--config FILE]
  fleet-agent hold DURATION|off [--config FILE]

Commands:
  join     make this device one of a fleet; fleet-agent join --help says how.
  run      work until SIGTERM or SIGINT; the default. Containers keep running after it.
  check    try out the configuration, podman, the broker and OpenBao, and say what is wrong.
  status   show what runs here and why, also while the agent is down.
  logs     print the last lines that the containers wrote, 200 of each unless LINES says
           otherwise; of all of them, of one Deployment as status calls it, or of a service.
  hold     change nothing for a DURATION such as 90m or 2h, at most 720h: what runs is kept
           running, also across power cuts; "off" ends it.
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
	c, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(p.out, usage)
		return 0
	case err != nil:
		fmt.Fprintf(p.err, "fleet-agent: %v\n\n%s", err, usage)
		return 2
	}
	switch c.name {
	case "version":
		fmt.Fprintln(p.out, buildVersion())
		return 0
	case "check":
		return p.check(ctx, c.path)
	case "run":
		err = p.work(ctx, c.path)
	case "status":
		err = p.status(ctx, c.path)
	case "logs":
		err = p.logs(ctx, c)
	case "hold":
		err = p.hold(c)
	}
	if err != nil {
		fmt.Fprintf(p.err, "fleet-agent %s: %v\n", c.name, err)
		return 1
	}
	return 0
}

// command is what the arguments ask for.
type command struct {
	name string
	// path of the configuration.
	path string
	// operand of logs and hold; "" for none.
	operand string
	// tail is how many lines of each log.
	tail int
}

// operands says of each command whether it takes one.
var operands = map[string]bool{"run": false, "check": false, "status": false, "version": false, "logs": true, "hold": true}

// parse takes flags before, after and between the words.
func parse(args []string) (c command, err error) {
	flags := flag.NewFlagSet("fleet-agent", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&c.path, "config", config.Path(), "")
	flags.IntVar(&c.tail, "tail", 0, "")
	var words []string
	for rest := args; ; rest = flags.Args()[1:] {
		if err := flags.Parse(rest); err != nil {
			return c, err
		}
		if flags.NArg() == 0 {
			break
		}
		words = append(words, flags.Arg(0))
	}
	if c.name = "run"; len(words) > 0 {
		c.name, words = words[0], words[1:]
	}
	takes, known := operands[c.name]
	switch {
	case c.name == "help":
		return c, flag.ErrHelp
	case !known:
		return c, fmt.Errorf("unknown command %q", c.name)
	case takes && len(words) > 0:
		c.operand, words = words[0], words[1:]
	}
	if len(words) > 0 {
		return c, fmt.Errorf("unexpected argument %q", words[0])
	}
	if c.tail != 0 && c.name != "logs" {
		return c, errors.New("--tail is for logs alone")
	}
	return c, c.check()
}

// check reads what the operand says, so far as no configuration is needed for that.
func (c *command) check() error {
	switch c.name {
	case "hold":
		_, err := c.length()
		return err
	case "logs":
		_, err := c.request()
		return err
	}
	return nil
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
