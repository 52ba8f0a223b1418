// Package repository makes what apt and dnf read: a folder that any web server can
// serve, with indexes of packages that are signed. The indexes are written by
// apt-ftparchive and createrepo_c, the tools that distributions use. It makes no
// package and uploads nothing.
package repository

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/nationtech/harmony-fleet/release/packages"
	"github.com/nationtech/harmony-fleet/release/pgp"
)

// Tools are the programs that Make needs, and the Debian packages that have them.
var Tools = map[string]string{"apt-ftparchive": "apt-utils", "createrepo_c": "createrepo-c"}

// Repository says what to make.
type Repository struct {
	// Packages are all that it has, of every version.
	Packages []packages.Package
	Key      pgp.Key
	Progress io.Writer // hears what is done, a line at a time
}

// CheckURL refuses an address that a device could not use.
func CheckURL(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || strings.HasSuffix(address, "/") {
		return fmt.Errorf("URL: %q must look like https://packages.example.com/harmony-fleet, without a slash at its end", address)
	}
	return nil
}

// Make writes the repository to the folder dir, in the place of what is there, and
// leaves that alone when it fails. trust is copied beside it for whoever sets a device
// up by hand.
func (r Repository) Make(ctx context.Context, trust packages.Trust, dir string) (err error) {
	for tool, from := range Tools {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not here: apt install %s", tool, from)
		}
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("making %s: %w", dir, err)
	}
	next, err := os.MkdirTemp(filepath.Dir(dir), ".repository-")
	if err != nil {
		return fmt.Errorf("making %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(next)) }()
	for _, part := range []func() error{
		func() error { return r.deb(ctx, filepath.Join(next, "deb")) },
		func() error { return r.rpm(ctx, filepath.Join(next, "rpm")) },
		func() error { return describe(trust, next) },
		func() error { return os.Chmod(next, 0o755) }, //nolint:gosec // for everybody
	} {
		if err := part(); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("replacing %s: %w", dir, err)
	}
	if err := os.Rename(next, dir); err != nil {
		return fmt.Errorf("replacing %s: %w", dir, err)
	}
	fmt.Fprintf(r.Progress, "%s: a repository of %d packages for %s\n", dir, len(r.Packages), trust.URL)
	return nil
}

// describe writes what a person needs to trust the repository.
func describe(trust packages.Trust, dir string) error {
	apt, dnf, err := trust.Sources()
	if err != nil {
		return err
	}
	return write(dir, map[string][]byte{
		"harmony-fleet.gpg": trust.Binary, "harmony-fleet.asc": trust.Armored,
		"harmony-fleet.sources": apt, "harmony-fleet.repo": dnf,
	})
}

// suite is the one there is: every package runs on every release of Debian since 12,
// and of what is made of it.
const suite = "dists/stable"

// deb makes the repository for apt.
func (r Repository) deb(ctx context.Context, dir string) error {
	if err := r.collect("deb", func(packages.Package) []string { return []string{filepath.Join(dir, "pool/main")} }); err != nil {
		return err
	}
	for _, arch := range packages.Architectures {
		list, err := run(ctx, dir, "apt-ftparchive", "--arch="+arch, "packages", "pool/main")
		if err != nil {
			return err
		}
		packed, err := compress(list)
		if err != nil {
			return err
		}
		if err := write(filepath.Join(dir, suite, "main/binary-"+arch), map[string][]byte{"Packages": list, "Packages.gz": packed}); err != nil {
			return err
		}
	}
	args := []string{"-o=APT::FTPArchive::DoByHash=true"}
	for field, value := range map[string]string{
		"Origin": "Harmony Fleet", "Label": "Harmony Fleet", "Suite": "stable", "Codename": "stable", "Components": "main",
		"Architectures": strings.Join(packages.Architectures, " "), "Acquire-By-Hash": "yes",
	} {
		args = append(args, "-o=APT::FTPArchive::Release::"+field+"="+value)
	}
	release, err := run(ctx, dir, "apt-ftparchive", append(args, "release", suite)...)
	if err != nil {
		return err
	}
	signed, err := r.Key.Clear(release)
	if err != nil {
		return err
	}
	beside, err := r.Key.Armored(release)
	if err != nil {
		return err
	}
	return write(filepath.Join(dir, suite), map[string][]byte{"Release": release, "InRelease": signed, "Release.gpg": beside})
}

// rpmNames are architectures as dnf names them.
var rpmNames = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// rpm makes the repositories for dnf, one for each architecture.
func (r Repository) rpm(ctx context.Context, dir string) error {
	err := r.collect("rpm", func(p packages.Package) (to []string) {
		for arch, name := range rpmNames {
			if p.Architecture == arch || p.Architecture == "all" {
				to = append(to, filepath.Join(dir, name))
			}
		}
		return to
	})
	if err != nil {
		return err
	}
	for _, name := range rpmNames {
		if _, err := run(ctx, filepath.Join(dir, name), "createrepo_c", "--quiet", "."); err != nil {
			return err
		}
		data := filepath.Join(dir, name, "repodata")
		index, err := os.ReadFile(filepath.Join(data, "repomd.xml"))
		if err != nil {
			return fmt.Errorf("reading the index: %w", err)
		}
		beside, err := r.Key.Armored(index)
		if err != nil {
			return err
		}
		if err := write(data, map[string][]byte{"repomd.xml.asc": beside}); err != nil {
			return err
		}
	}
	return nil
}

// collect copies the packages of a format into the folders that are theirs.
func (r Repository) collect(format string, folders func(packages.Package) []string) error {
	found := false
	for _, p := range r.Packages {
		if p.Format != format {
			continue
		}
		found = true
		content, err := os.ReadFile(p.Path)
		if err != nil {
			return fmt.Errorf("reading a package: %w", err)
		}
		for _, dir := range folders(p) {
			if err := write(dir, map[string][]byte{filepath.Base(p.Path): content}); err != nil {
				return err
			}
		}
	}
	if !found {
		return fmt.Errorf("there is no %s among the packages", format)
	}
	return nil
}

// write puts files, by their names, into a folder, for everybody to read.
func write(dir string, content map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // a web server reads it
		return fmt.Errorf("writing the repository: %w", err)
	}
	for name, data := range content {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil { //nolint:gosec // the same
			return fmt.Errorf("writing the repository: %w", err)
		}
	}
	return nil
}

func compress(content []byte) ([]byte, error) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write(content)
	err = errors.Join(err, w.Close())
	return packed.Bytes(), err
}

func run(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	var problem bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stderr = dir, &problem
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(problem.Bytes()))
	}
	return out, nil
}
