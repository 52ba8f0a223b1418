package stories

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// diskBytes is the size of the device's disk: some images of the hello program.
const diskBytes = 96 << 20

// hardships are what happens to this host's podman and disk, in this order.
func (s *sufferer) hardships() []trouble {
	podman := s.machine.podman
	disk := podman.Disk()
	on := func(do func(string) error, what string) func(context.Context) error {
		return func(context.Context) error { return do(what) }
	}
	signal := func(signal syscall.Signal) func(context.Context) error {
		return func(context.Context) error { return syscall.Kill(podman.PID(), signal) }
	}
	return []trouble{
		{
			what: "podman's service ends, and its socket is gone",
			begin: func(context.Context) error {
				podman.StopService()
				return os.RemoveAll(strings.TrimPrefix(podman.Socket(), "unix://"))
			},
			end:    podman.StartService,
			reason: "PodmanUnavailable",
		},
		{what: "podman hangs", begin: signal(syscall.SIGSTOP), end: signal(syscall.SIGCONT), reason: "PodmanTimeout"},
		slow(podman.PID),
		{what: "the disk is full", begin: on(fillBytes, disk), end: on(relieve, disk), reason: "DiskFull"},
		{what: "the disk has no inodes left", begin: on(fillInodes, disk), end: on(relieve, disk), reason: "DiskFull"},
		// The part that podman stores on is left out: its service of version 4.3 panics
		// there with a lock held, and hangs then until it is started anew.
		{what: "the agent's disk is read-only", begin: on(coverReadOnly, s.machine.state), end: on(uncover, s.machine.state), reason: "DiskReadOnly"},
		s.damaged(),
	}
}

// damaged has podman's service end, and not come up again: it cannot read its database.
// One that runs would hang until it is started anew, with version 4.3.
func (s *sufferer) damaged() trouble {
	podman := s.machine.podman
	database := filepath.Join(podman.Disk(), "root/db.sql")
	if _, err := os.Stat(database); err != nil {
		database = filepath.Join(podman.Disk(), "root/libpod/bolt_state.db") // before version 5
	}
	return trouble{
		what: "podman's database is damaged, so that its service does not start",
		begin: func(ctx context.Context) error {
			podman.StopService()
			if err := damage(database); err != nil {
				return err
			}
			if podman.StartService(ctx) == nil {
				return fmt.Errorf("podman starts though %s is damaged", database)
			}
			return nil
		},
		end: func(ctx context.Context) error {
			return errors.Join(repair(database), podman.StartService(ctx))
		},
		reason: "PodmanUnavailable",
	}
}

// slow has podman's service, whose process it asks for, stand still for most of the time.
func slow(pid func() int) trouble {
	const still, turn = 400 * time.Millisecond, 500 * time.Millisecond
	var (
		running sync.WaitGroup
		over    = make(chan struct{})
		failed  error // once nothing runs
	)
	return trouble{
		what: "podman is slow, and does what it shall all the same",
		begin: func(context.Context) error {
			running.Go(func() {
				for failed == nil {
					failed = syscall.Kill(pid(), syscall.SIGSTOP)
					time.Sleep(still)
					failed = errors.Join(failed, syscall.Kill(pid(), syscall.SIGCONT))
					select {
					case <-over:
						return
					case <-time.After(turn - still):
					}
				}
			})
			return nil
		},
		end: func(context.Context) error {
			close(over)
			running.Wait()
			return failed
		},
	}
}

// ballastOf is a folder of the disk with what takes its room away.
func ballastOf(disk string) string { return filepath.Join(disk, "ballast") }

// fillBytes leaves no byte that can be had.
func fillBytes(disk string) error {
	if err := os.Mkdir(ballastOf(disk), 0o700); err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(ballastOf(disk), "bytes"))
	if err != nil {
		return err
	}
	defer file.Close()
	for size := 1 << 20; size >= 1<<10; {
		_, err := file.Write(bytes.Repeat([]byte{'x'}, size))
		err = errors.Join(err, file.Sync()) // else the kernel may promise more than there is
		switch {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		case err != nil:
			return fmt.Errorf("filling a disk up: %w", err)
		}
	}
	return nil
}

// fillInodes leaves room for bytes and none for another file.
func fillInodes(disk string) error {
	if err := os.Mkdir(ballastOf(disk), 0o700); err != nil {
		return err
	}
	for n := 0; ; n++ {
		err := os.WriteFile(filepath.Join(ballastOf(disk), strconv.Itoa(n)), nil, 0o600)
		if errors.Is(err, syscall.ENOSPC) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("using up the inodes of a disk: %w", err)
		}
	}
}

func relieve(disk string) error { return os.RemoveAll(ballastOf(disk)) }

// coverReadOnly has whoever opens a file of the folder from now on find it read-only. What
// is open stays so: the kernel makes no file system read-only that is being written to,
// unless it is broken for good.
func coverReadOnly(folder string) error {
	if err := syscall.Mount(folder, folder, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting %s on itself: %w", folder, err)
	}
	if err := syscall.Mount("", folder, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		return errors.Join(fmt.Errorf("making %s read-only: %w", folder, err), uncover(folder))
	}
	return nil
}

func uncover(folder string) error { return syscall.Unmount(folder, syscall.MNT_DETACH) }

// damage has something else stand in a file's place, until it is repaired.
func damage(path string) error {
	return errors.Join(os.Rename(path, path+".kept"), os.WriteFile(path, bytes.Repeat([]byte("damaged "), 4<<10), 0o600))
}

func repair(path string) error { return os.Rename(path+".kept", path) }
