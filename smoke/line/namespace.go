package line

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// namespace is a network of its own, which ends with its last process and this file.
type namespace struct{ file *os.File }

func newNamespace() (n namespace, err error) {
	err = apart(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		n.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		err = fmt.Errorf("making a network namespace: %w", err)
	}
	return n, err
}

// path is where others find it while this process lives.
func (n namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// within does something in it. Sockets and programs that are begun then stay there.
func (n namespace) within(do func() error) error {
	return apart(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering a network namespace: %w", err)
		}
		return do()
	})
}

// apart does something in a thread that ends with it.
func apart(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- do()
	}()
	return <-done
}

// plug gives the namespace an address, and one way out, to that of the other end. What
// leaves is read from the file, packet by packet, and what is written to it arrives.
func (n namespace) plug(ctx context.Context, own, other netip.Addr) (end *os.File, err error) {
	err = n.within(func() error {
		if end, err = openTUN("line"); err != nil {
			return err
		}
		return errors.Join(
			run(ctx, "ip link set lo up"),
			run(ctx, fmt.Sprintf("ip address add %s peer %s dev line", own, other)),
			run(ctx, "ip link set line up"),
		)
	})
	return end, err
}

// openTUN makes a device of the kernel's whose cable ends in this process, and which ends
// with the file.
func openTUN(name string) (*os.File, error) {
	const path = "/dev/net/tun"
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s, which the kernel's module tun makes: %w", path, err)
	}
	device, err := unix.NewIfreq(name)
	if err == nil {
		device.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, device)
	}
	if err != nil {
		_ = unix.Close(fd) // nothing was written
		return nil, fmt.Errorf("making a TUN device: %w", err)
	}
	// Not earlier: Go would wait for a file that is no device's yet, and be told of an error.
	return os.NewFile(uintptr(fd), path), nil
}

// run runs a command, whose words are apart by spaces.
func run(ctx context.Context, command string) error {
	words := strings.Fields(command)
	if out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, bytes.TrimSpace(out))
	}
	return nil
}
