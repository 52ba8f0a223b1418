// Package packages_test installs the agent's packages as people do, with the real apt
// and dnf, from a repository that a web server of the test serves. It runs no systemd:
// what a running agent does while its package changes is shown on a virtual machine.
package packages_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nationtech/harmony-fleet/release/packages"
	"github.com/nationtech/harmony-fleet/smoke/debian"
	"github.com/nationtech/harmony-fleet/smoke/rootfs"
	"github.com/nationtech/harmony-fleet/smoke/shop"
)

// Versions of the packages, the older first, and how package managers spell them.
const (
	older = "0.0.9-rc.1"
	newer = "0.0.9"
)

// shelf is the shop that all tests share, with both versions for both architectures.
type shelf struct{ *shop.Shop }

var (
	once   sync.Once
	shared shelf
	failed error
)

// work has what the tests share, and is removed after them.
var work string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if work, err = os.MkdirTemp("", "fleet-packages-"); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	return m.Run(), nil
}

func open(t *testing.T) shelf {
	t.Helper()
	once.Do(func() { failed = shared.fill(context.Background()) })
	must(t, failed)
	return shared
}

// fill opens the shop, until the process ends.
func (s *shelf) fill(ctx context.Context) (err error) {
	needed := []debian.Program{
		{Package: "dnf", Paths: []string{"/usr/bin/dnf"}}, {Package: "rpm", Paths: []string{"/usr/bin/rpm"}},
		{Package: "lintian", Paths: []string{"/usr/bin/lintian"}}, {Package: "rpmlint", Paths: []string{"/usr/bin/rpmlint"}},
		{Package: "qemu-user-static", Paths: []string{"/usr/bin/qemu-aarch64-static"}},
	}
	if err := debian.Install(ctx, "installing packages", needed, os.Stderr); err != nil {
		return err
	}
	if s.Shop, err = shop.Open(ctx, shop.Options{Dir: work, Architectures: packages.Architectures, Progress: os.Stderr}); err != nil {
		return err
	}
	return s.Stock(ctx, older, newer)
}

// find is the path of a package whose name begins and ends so.
func (s shelf) find(t *testing.T, begin, end string) string {
	t.Helper()
	path, err := s.Find(begin, end)
	must(t, err)
	return path
}

// device is a Debian of the test's own.
type device struct {
	*testing.T
	root rootfs.Root
}

func newDevice(t *testing.T) device {
	t.Helper()
	root, err := rootfs.Debian(t.Context(), filepath.Join(t.TempDir(), "root"), os.Stderr)
	must(t, err)
	return device{t, root}
}

// does has the shell do something that has to succeed.
func (d device) does(command string) string {
	d.Helper()
	out, err := d.root.Run(d.Context(), command)
	if err != nil {
		d.Fatalf("%v:\n%s", err, out)
	}
	return out
}

// fails has the shell do something that must not succeed and says why.
func (d device) fails(command, why string) {
	d.Helper()
	if out, err := d.root.Run(d.Context(), command); err == nil || !strings.Contains(out, why) {
		d.Errorf("%s: %v, want %q in\n%s", command, err, why, out)
	}
}

// has fails when one of the files is missing, or there.
func (d device) has(there bool, files ...string) {
	d.Helper()
	for _, file := range files {
		if _, err := os.Lstat(d.root.Path(file)); (err == nil) != there {
			d.Errorf("%s: there %t, want %t", file, err == nil, there)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
