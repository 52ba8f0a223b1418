// Package packages_test installs the agent's packages as people do, with the real apt
// and dnf, from a repository that a web server of the test serves. It runs no systemd:
// what a running agent does while its package changes is shown on a virtual machine.
package packages_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/nationtech/harmony-fleet/release/packages"
	"github.com/nationtech/harmony-fleet/release/pgp"
	"github.com/nationtech/harmony-fleet/release/repository"
	"github.com/nationtech/harmony-fleet/release/source"
	"github.com/nationtech/harmony-fleet/smoke/debian"
	"github.com/nationtech/harmony-fleet/smoke/rootfs"
)

// Versions of the packages, the older first, and how package managers spell them.
const (
	older = "0.0.9-rc.1"
	newer = "0.0.9"
)

// shop is where packages are had: a repository behind a web server. All tests share
// one, and each makes its own key anew where it needs another.
type shop struct {
	url, dir string
	packages []packages.Package
	trust    packages.Trust
}

var (
	once   sync.Once
	shared shop
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

// open is the shop with both versions for both architectures.
func open(t *testing.T) shop {
	t.Helper()
	once.Do(func() { failed = shared.stock(context.Background()) })
	must(t, failed)
	return shared
}

func (s *shop) stock(ctx context.Context) error {
	needed := []debian.Program{
		{Package: "apt-utils", Paths: []string{"/usr/bin/apt-ftparchive"}}, {Package: "createrepo-c", Paths: []string{"/usr/bin/createrepo_c"}},
		{Package: "dnf", Paths: []string{"/usr/bin/dnf"}}, {Package: "rpm", Paths: []string{"/usr/bin/rpm"}},
		{Package: "lintian", Paths: []string{"/usr/bin/lintian"}}, {Package: "rpmlint", Paths: []string{"/usr/bin/rpmlint"}},
		{Package: "qemu-user-static", Paths: []string{"/usr/bin/qemu-aarch64-static"}},
	}
	if err := debian.Install(ctx, "installing packages", needed, os.Stderr); err != nil {
		return err
	}
	tree, err := source.Read(ctx, ".")
	if err != nil {
		return err
	}
	key, err := newKey(work)
	if err != nil {
		return err
	}
	for _, version := range []string{older, newer} {
		b := packages.Build{Source: tree, Architectures: packages.Architectures, Version: version, Sign: key.Detached, Progress: os.Stderr}
		made, err := b.Agent(ctx, filepath.Join(work, "packages"))
		if err != nil {
			return err
		}
		s.packages = append(s.packages, made...)
	}
	s.dir = filepath.Join(work, "repo")
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return err
	}
	s.url = httptest.NewServer(http.FileServer(http.Dir(s.dir))).URL // until the process ends
	s.trust = packages.Trust{URL: s.url}
	if s.trust.Binary, s.trust.Armored, err = key.Public(); err != nil {
		return err
	}
	keyring, err := packages.Build{Source: tree, Sign: key.Detached, Progress: os.Stderr}.Keyring(s.trust, filepath.Join(work, "packages"))
	if err != nil {
		return err
	}
	s.packages = append(s.packages, keyring...)
	return s.publish(ctx, key)
}

// publish makes the repository, signed by a key.
func (s shop) publish(ctx context.Context, key pgp.Key) error {
	return repository.Repository{Packages: s.packages, Key: key, Progress: os.Stderr}.Make(ctx, s.trust, s.dir)
}

// find is the path of a package whose name begins and ends so.
func (s shop) find(t *testing.T, begin, end string) string {
	t.Helper()
	i := slices.IndexFunc(s.packages, func(p packages.Package) bool {
		name := filepath.Base(p.Path)
		return strings.HasPrefix(name, begin) && strings.HasSuffix(name, end)
	})
	if i < 0 {
		t.Fatalf("there is no package %s…%s", begin, end)
	}
	return s.packages[i].Path
}

// newKey makes a key as gpg would, and reads it as a release does.
func newKey(dir string) (pgp.Key, error) {
	entity, err := openpgp.NewEntity("Harmony Fleet test", "", "", &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 4096, Time: func() time.Time { return time.Now().Add(-time.Hour) }})
	if err != nil {
		return pgp.Key{}, err
	}
	var text bytes.Buffer
	w, err := armor.Encode(&text, openpgp.PrivateKeyType, nil)
	if err == nil {
		err = entity.SerializePrivate(w, nil)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return pgp.Key{}, err
	}
	file, err := os.CreateTemp(dir, "key-")
	if err != nil {
		return pgp.Key{}, err
	}
	_, err = file.Write(text.Bytes())
	if err := errors.Join(err, file.Close()); err != nil {
		return pgp.Key{}, err
	}
	return pgp.ReadKey(file.Name())
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
