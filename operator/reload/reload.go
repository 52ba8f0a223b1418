// Package reload has a server read its files again when they have changed, as the
// mounted certificates of a pod do: it looks at what the files hold, and sends the
// server's process SIGHUP. It starts and ends no process.
package reload

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
)

// Watcher watches the files of one server.
type Watcher struct {
	// Process is the name of the server's program, as the kernel has it: at most 15
	// bytes.
	Process string
	// Files that the server has read. A file that is missing counts as an empty one.
	Files []string
	// Interval is the time between two looks.
	Interval time.Duration
	Log      logr.Logger

	seen []int // processes at the last look
}

// errNoProcess says that no process has the name.
var errNoProcess = errors.New("no process of that name can be seen: the pod needs shareProcessNamespace")

// Run watches until ctx ends. What changed while the server could not be told is
// told later.
func (w *Watcher) Run(ctx context.Context) {
	told := w.digest()
	w.Log.Info("watching", "process", w.Process, "files", w.Files)
	problem := ""
	ticker := time.NewTicker(w.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := w.digest()
		if now == told {
			continue
		}
		if err := w.tell(); err != nil {
			if text := err.Error(); text != problem {
				problem = text
				w.Log.Error(err, "files have changed and the server was not told, trying again", "process", w.Process)
			}
			continue
		}
		told, problem = now, ""
		w.Log.Info("files have changed, the server reads them again", "process", w.Process)
	}
}

// digest is of all that the files hold.
func (w *Watcher) digest() [sha256.Size]byte {
	h := sha256.New()
	for _, file := range w.Files {
		content, err := os.ReadFile(file)
		if err != nil {
			content = nil
		}
		fmt.Fprintf(h, "%s %d\n%s", file, len(content), content)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// tell sends the signal to every process of the name that was there at the last
// look too: SIGHUP would end one that starts just now.
func (w *Watcher) tell() error {
	found, err := processes(w.Process)
	if err != nil {
		return err
	}
	before := w.seen
	w.seen = found
	for _, pid := range found {
		if !slices.Contains(before, pid) {
			return fmt.Errorf("process %d has just started", pid)
		}
	}
	if len(found) == 0 {
		return errNoProcess
	}
	for _, pid := range found {
		if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
			return fmt.Errorf("sending SIGHUP to process %d: %w", pid, err)
		}
	}
	return nil
}

// processes have the name.
func processes(name string) (pids []int, err error) {
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		comm, err := os.ReadFile(file)
		if err != nil || strings.TrimSuffix(string(comm), "\n") != name {
			continue // ended meanwhile, or another
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
