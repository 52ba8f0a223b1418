package vm

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/nationtech/harmony-fleet/smoke/rootfs"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// files are what a device's owner would configure, by their paths there. They are in
// place before the packages come: some of them are for the making of the initrd.
//
//go:embed files
var files embed.FS

// packages of a device that has no agent yet. Kernels are named by the architecture.
const packages = "linux-image-cloud-%s systemd-sysv udev dbus kmod iproute2 openssh-server curl cloud-init " +
	"podman crun netavark aardvark-dns iptables"

// finish is done in the Debian at last. Masked is what a machine of a few minutes has no
// use for, and what would wait for a network that is not there.
const finish = `
systemctl enable systemd-networkd.service
systemctl set-default multi-user.target
systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
  fstrim.timer networking.service getty@tty1.service podman-auto-update.timer podman-auto-update.service systemd-binfmt.service \
  systemd-pstore.service systemd-random-seed.service
: >/etc/machine-id
echo nameserver 10.0.2.3 >/etc/resolv.conf
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
`

// diskSize is that of a device's disk, most of which is empty and takes no space.
const diskSize = "6G"

// image is a Debian that boots. Many machines have the same, each with what it writes on
// a disk of its own.
type image struct {
	arch string
	more string // packages besides those of all
	dir  string
}

func (i image) kernel() string { return filepath.Join(i.dir, "vmlinuz") }
func (i image) initrd() string { return filepath.Join(i.dir, "initrd.img") }
func (i image) disk() string   { return filepath.Join(i.dir, "disk.img") }

// key lets whoever has it log in as root.
func (i image) key() string { return filepath.Join(i.dir, "id_ed25519") }

// getImage makes the image, with more packages than all have, or finds it in the cache by
// what it is made of.
func getImage(ctx context.Context, arch, more string, progress io.Writer) (image, error) {
	i := image{arch: arch, more: more}
	recipe := sha256.New()
	_, _ = io.WriteString(recipe, packages+more+finish+diskSize)
	err := fs.WalkDir(files, "files", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := files.ReadFile(path)
		fmt.Fprintln(recipe, path, string(content))
		return err
	})
	if err != nil {
		return i, err
	}
	i.dir, err = tools.Cached(ctx, fmt.Sprintf("vm-%s-%s-%x", rootfs.Suite, arch, recipe.Sum(nil)[:6]), func(dir string) error {
		return withArch(ctx, arch, progress, func() error { return image{arch, more, dir}.build(ctx, progress) })
	})
	if err != nil {
		return i, fmt.Errorf("making the disk of a device for %s: %w", arch, err)
	}
	return i, nil
}

func (i image) build(ctx context.Context, progress io.Writer) error {
	root, err := rootfs.Bootstrap(ctx, filepath.Join(i.dir, "root"), i.arch, progress)
	if err != nil {
		return err
	}
	if err := furnish(root); err != nil {
		return err
	}
	fmt.Fprintf(progress, "installing what a device for %s has\n", i.arch)
	if err := root.Install(ctx, fmt.Sprintf(packages, i.arch)+" "+i.more); err != nil {
		return err
	}
	if out, err := root.Run(ctx, finish); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if err := i.makeKey(root); err != nil {
		return err
	}
	for to, pattern := range map[string]string{i.kernel(): "boot/vmlinuz-*", i.initrd(): "boot/initrd.img-*"} {
		found, err := filepath.Glob(root.Path(pattern))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("there are the files %v, want one %s: %w", found, pattern, err)
		}
		if err := os.Rename(found[0], to); err != nil {
			return err
		}
	}
	if err := makeDisk(ctx, root, i.disk()); err != nil {
		return err
	}
	return os.RemoveAll(string(root))
}

// furnish writes the files.
func furnish(root rootfs.Root) error {
	return fs.WalkDir(files, "files", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := files.ReadFile(path)
		if err != nil {
			return err
		}
		return root.Write(strings.TrimPrefix(path, "files/"), string(content))
	})
}

// makeKey makes a key by which root lets people in.
func (i image) makeKey(root rootfs.Root) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, "device")
	if err != nil {
		return fmt.Errorf("encoding a key: %w", err)
	}
	authorized, err := ssh.NewPublicKey(public)
	if err != nil {
		return fmt.Errorf("encoding a key: %w", err)
	}
	return errors.Join(
		os.WriteFile(i.key(), pem.EncodeToMemory(block), 0o600),
		root.Write("root/.ssh/authorized_keys", string(ssh.MarshalAuthorizedKey(authorized))),
	)
}

// makeDisk makes a disk without partitions of what is in the folder.
func makeDisk(ctx context.Context, root rootfs.Root, disk string) error {
	return command(ctx, "mke2fs", "-q", "-t", "ext4", "-d", string(root), disk, diskSize)
}
