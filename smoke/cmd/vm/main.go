// Command vm gives a person a device to try: a virtual machine with Debian, podman and
// the agent of this tree, and a menu of what can be done with it. It removes the machine
// when it ends.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/nationtech/harmony-fleet/release/version"
	"github.com/nationtech/harmony-fleet/smoke/device/vm"
	"github.com/nationtech/harmony-fleet/smoke/shop"
	"github.com/nationtech/harmony-fleet/smoke/steps"
)

func main() {
	arch := flag.String("arch", runtime.GOARCH, "architecture of the device: amd64 or arm64")
	flag.Parse()
	// Signals stay caught until the machine is gone: a second Ctrl-C must not leave it.
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if err := run(ctx, *arch, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(1)
	}
}

// menu is what a person is handed: commands that work as they are.
var menu = template.Must(template.New("menu").Parse(`
The device is up: Debian 12 for {{.Arch}}, with podman and fleet-agent {{.Version}}. In another terminal:

Log in, or sit down at its console (package socat; Ctrl-] leaves)
  {{.SSH}}
  socat STDIO,raw,echo=0,escape=0x1d UNIX-CONNECT:{{.Console}}
  tail -f {{.ConsoleLog}}

Have it join a fleet ({{.Host}} is this host, as the device sees it), and start the agent
  kubectl fleet enroll vm-1 --label group=a | {{.SSH}} sh
  {{.SSH}} systemctl enable --now fleet-agent

See how it does
  {{.SSH}} fleet-agent check
  {{.SSH}} fleet-agent status
  {{.SSH}} journalctl --unit=fleet-agent --follow
  {{.SSH}} podman ps
  curl {{.URL}}   # what a container serves at the device's port {{.Port}}

Here, a line at a time:
  cut      cuts the power
  boot     switches it on
  1970     switches it on with a clock that has no battery
  unplug   takes its network away; ssh goes by another cable
  plug     gives it back

Ctrl-C here removes the device.
`))

// run has a device until ctx ends.
func run(ctx context.Context, arch string, in io.Reader, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "fleet-shop-")
	if err != nil {
		return fmt.Errorf("making a folder for packages: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var packages *shop.Shop
	err = steps.Run(out, "making the agent's package, and a repository for apt", func() error {
		packages, err = shop.Open(ctx, shop.Options{Dir: dir, Reach: vm.Reach, Architectures: []string{arch}, Progress: out})
		if err != nil {
			return err
		}
		return packages.Stock(ctx, version.Number)
	})
	if packages != nil {
		defer func() { err = errors.Join(err, packages.Close()) }()
	}
	if err != nil {
		return err
	}
	m, err := vm.New(ctx, vm.Options{Architecture: arch, Person: true, Progress: out})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Stop()) }()
	if err := steps.Run(out, "booting", func() error { return m.Boot(ctx, vm.Boot{}) }); err != nil {
		return err
	}
	err = steps.Run(out, "installing fleet-agent with apt", func() error {
		_, err := m.Run(ctx, packages.Install(shop.Apt))
		return err
	})
	if err != nil {
		return err
	}
	err = menu.Execute(out, map[string]any{
		"Arch": arch, "Version": version.Tag, "SSH": m.SSH(), "Console": m.ConsoleSocket(), "ConsoleLog": m.ConsoleLog(),
		"Host": vm.Host, "URL": m.URL(), "Port": vm.Port,
	})
	if err != nil {
		return fmt.Errorf("printing the menu: %w", err)
	}
	serve(ctx, m, in, out)
	fmt.Fprintln(out, "removing the device …")
	return nil
}

// serve does what is written, a line at a time, until ctx ends.
func serve(ctx context.Context, m *vm.Machine, in io.Reader, out io.Writer) {
	lines := make(chan string)
	go func() {
		for s := bufio.NewScanner(in); s.Scan(); {
			lines <- strings.TrimSpace(s.Text())
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case line := <-lines:
			if err := do(ctx, m, line, out); err != nil {
				fmt.Fprintln(out, err)
			}
		}
	}
}

func do(ctx context.Context, m *vm.Machine, line string, out io.Writer) error {
	switch line {
	case "":
		return nil
	case "cut":
		m.Cut()
	case "boot":
		return steps.Run(out, "booting", func() error { return m.Boot(ctx, vm.Boot{}) })
	case "1970":
		return steps.Run(out, "booting in 1970", func() error { return m.Boot(ctx, vm.Boot{Clock: time.Unix(0, 0)}) })
	case "plug", "unplug":
		return m.Plug(line == "plug")
	default:
		return fmt.Errorf("%q is none of cut, boot, 1970, unplug, plug", line)
	}
	return nil
}
