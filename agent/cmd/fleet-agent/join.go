package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/nationtech/harmony-fleet/agent/config"
	"github.com/nationtech/harmony-fleet/agent/join"
)

const joinUsage = `fleet-agent join makes this device one of a fleet: ` + "`kubectl fleet enroll DEVICE`" + ` prints
the whole command. It makes the device's key, which never leaves it, has the broker
know it, and writes what it is told to conf.d/10-joined.toml beside the configuration.
It replaces no file, and may be repeated.

Usage:
  fleet-agent join --url URL... --trusted-key KEY... [--ca CERTIFICATES] [--device-id ID] [--config FILE] TOKEN

  --url          where the broker is: tls://HOST:PORT, or tls-first://HOST:PORT behind a
                 proxy that goes by the name of the host; may be repeated.
  --trusted-key  public key of the operator (O…); may be repeated.
  --ca           certificates to trust at the broker instead of the system's, in base64.
  --device-id    device that the token has to be for.
  --config       configuration, else the one that fleet-agent --help names.
  TOKEN          the token of enrolment; "-" reads it from standard input, where the
                 other users of this device do not see it.
`

// list is a flag that may be repeated.
type list []string

// String and Set implement flag.Value.
func (l *list) String() string { return strings.Join(*l, " ") }

// Set adds a value.
func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

// join does what the arguments after its name say and returns the exit code.
func (p program) join(ctx context.Context, args []string) int {
	request, path, err := p.parseJoin(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(p.out, joinUsage)
		return 0
	case err != nil:
		fmt.Fprintf(p.err, "fleet-agent join: %v\n\n%s", err, joinUsage)
		return 2
	}
	cfg, err := join.Run(ctx, join.Options{
		Request: request, Path: path, Tell: func(text string) { fmt.Fprintln(p.err, text) },
	})
	if err != nil {
		fmt.Fprintf(p.err, "fleet-agent join: %v\n", err)
		return 1
	}
	fmt.Fprintf(p.out, `joined as device %s; the configuration is %s with conf.d beside it
Next:
  fleet-agent check                          try it out
  systemctl enable --now fleet-agent         start the agent
  fleet-agent status                         see what runs here
`, cfg.Agent.DeviceID, path)
	return 0
}

// parseJoin reads the arguments, and the token from standard input when they say
// so.
func (p program) parseJoin(args []string) (r join.Request, path string, err error) {
	flags := flag.NewFlagSet("fleet-agent join", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&path, "config", config.Path(), "")
	flags.StringVar(&r.Device, "device-id", "", "")
	flags.StringVar(&r.CA, "ca", "", "")
	flags.Var((*list)(&r.URLs), "url", "")
	flags.Var((*list)(&r.TrustedKeys), "trusted-key", "")
	if err := flags.Parse(args); err != nil {
		return r, path, err
	}
	if flags.NArg() != 1 {
		return r, path, fmt.Errorf("want one TOKEN after the flags, got %d arguments", flags.NArg())
	}
	if r.Token = flags.Arg(0); r.Token != "-" {
		return r, path, nil
	}
	line, err := bufio.NewReader(p.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return r, path, fmt.Errorf("reading TOKEN from standard input: %w", err)
	}
	r.Token = strings.TrimSpace(line)
	return r, path, nil
}
