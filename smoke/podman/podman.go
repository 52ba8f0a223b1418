// Package podman runs private podman services for tests and the demo: each has
// storage, configuration and a network of its own, so that several of them stand
// for several devices on one host and the host's own podman is left alone. It
// talks to podman by its command line only and needs root, as a device's agent
// does by default; also for a rootless one, to become another user.
package podman

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/claim"
	"github.com/nationtech/harmony-fleet/smoke/process"
)

// Options of a service; the zero value is what a test wants.
type Options struct {
	// Dir holds everything, images included. When empty, a temporary folder is
	// used. Its path must be short: podman bounds the paths of sockets below it.
	Dir string
	// Name tells services apart in temporary folders, for people.
	Name string
	// Rootless runs podman as a user of its own who has no rights, as a device may.
	Rootless bool
	// NoCgroups leaves it without control groups, as a kernel does that has none which
	// the runtime can use.
	NoCgroups bool
	// DiskBytes has everything that podman stores on a file system of its own of this
	// size, see Service.Disk; 0 leaves it in the folder.
	DiskBytes int64
	// Progress hears about packages being installed; nil means standard error.
	Progress io.Writer
}

// Service is a podman service and the storage behind it.
type Service struct {
	dir     string
	root    string // of the storage
	owner   *os.File
	running *process.Process
}

// podman refuses longer paths of its run root.
const maxRunRoot = 50

const startTimeout = time.Minute

// Start makes the storage and runs the service; it returns when the service
// answers. Missing packages are installed first. Cancelling ctx ends the start,
// not the service.
func Start(ctx context.Context, o Options) (_ *Service, err error) {
	if o.Progress == nil {
		o.Progress = os.Stderr
	}
	if err := EnsureInstalled(ctx, o.Progress); err != nil {
		return nil, err
	}
	if o.Dir == "" {
		if err := reapAbandoned(); err != nil {
			return nil, err
		}
		if o.Dir, err = os.MkdirTemp("", temporaryPrefix+o.Name+"-"); err != nil {
			return nil, fmt.Errorf("making a temporary folder: %w", err)
		}
	}
	s, err := claimed(o.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("starting a podman service in %s: %w", s.dir, err), s.Stop())
		}
	}()
	if err := s.store(ctx, o); err != nil {
		return nil, err
	}
	if err := s.configure(o); err != nil {
		return nil, err
	}
	if o.Rootless {
		if err := s.surrender(ctx); err != nil {
			return nil, err
		}
	}
	return s, s.StartService(ctx)
}

// claimed makes the folder of a service and takes it for this process.
func claimed(dir string) (*Service, error) {
	s := &Service{dir: dir}
	if runRoot := s.path("run"); len(runRoot) > maxRunRoot {
		return nil, fmt.Errorf("podman allows %d characters for its run root, %s has %d", maxRunRoot, runRoot, len(runRoot))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of a podman service: %w", err)
	}
	owner, err := claim.Take(dir)
	s.owner = owner
	return s, err
}

// Socket is the address of the service, as CONTAINER_HOST has it: unix:///….
func (s *Service) Socket() string { return "unix://" + s.path("podman.sock") }

// CommandLine is what a person types before a podman command to reach the same
// containers, also while the service is stopped.
func (s *Service) CommandLine() string { return s.path("podman") }

// Run runs a podman command on the storage of this service, without the
// service, and returns its standard output. The error has its standard error.
func (s *Service) Run(ctx context.Context, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, s.CommandLine(), args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("podman %v: %w: %s", args, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// StartService runs the service process and returns when it answers.
func (s *Service) StartService(ctx context.Context) error {
	if s.running != nil {
		return nil
	}
	p, err := process.Start(process.Spec{
		Path: s.CommandLine(),
		Args: []string{"system", "service", "--time=0", s.Socket()},
		Log:  s.path("service.log"),
	})
	if err != nil {
		return err
	}
	s.running = p
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := p.WaitReady(ctx, s.ping); err != nil {
		s.StopService()
		return err
	}
	return nil
}

// StopService ends the service process; containers keep running.
func (s *Service) StopService() {
	if s.running != nil {
		s.running.Stop(3 * time.Second)
		s.running = nil
	}
}

// Restart stops and starts the service process; containers keep running.
func (s *Service) Restart(ctx context.Context) error {
	s.StopService()
	return s.StartService(ctx)
}

// PID is the process id of the service, 0 while it is stopped.
func (s *Service) PID() int {
	if s.running == nil {
		return 0
	}
	return s.running.PID()
}

// Stop ends the service, removes its containers, pods, volumes and images, and
// deletes its folder. It may be called more than once.
func (s *Service) Stop() error {
	s.StopService()
	err := remove(s.dir)
	if s.owner != nil {
		s.owner.Close() // releases the claim; the file is gone already
		s.owner = nil
	}
	return err
}

func (s *Service) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Service) ping(ctx context.Context) error {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", s.path("podman.sock"))
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://podman/_ping", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the service answers %s", response.Status)
	}
	return nil
}
