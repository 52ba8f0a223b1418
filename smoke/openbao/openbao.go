// Package openbao runs a server with OpenBao's API on loopback for tests and the
// demo, in a process of its own that can be killed and started again on its
// data, and sets it up: mounts, policies, roles and secrets. The server is the
// core of the last Vault from before OpenBao's fork (Mozilla Public License 2.0,
// for tests alone: no product code links it), so what it accepts a release of
// OpenBao need not: product code uses OpenBao's client and documentation only.
// The package never talks to a server that it did not start and never is fit
// for real secrets: it has no TLS, and keeps its keys beside its data.
package openbao

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/openbao/openbao/api/v2"

	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// Options of a server; the zero value is what a test wants.
type Options struct {
	// Dir holds the data, the keys and the log; it is made, and stays. "" means a
	// folder of its own that is removed by Stop. A server that is started on the
	// folder of an earlier one has its data and its root token.
	Dir string
	// Port on 127.0.0.1; 0 means a free one, which a restart keeps.
	Port int
	// Progress hears about building the program the first time; nil means
	// standard error.
	Progress io.Writer
}

// Server is a server with OpenBao's API, which the kernel kills when this process
// dies.
type Server struct {
	options   Options
	tempDir   bool
	program   string
	process   *process.Process
	transport *http.Transport
	rootToken string
}

// startTimeout bounds a start; a busy machine takes many times the usual second.
const startTimeout = 2 * time.Minute

// Start runs a server that is ready for use: initialized and unsealed, with
// nothing mounted yet. The program is built first when the cache lacks it, which
// takes minutes. Cancelling ctx ends the start, not the server.
func Start(ctx context.Context, options Options) (_ *Server, err error) {
	if options.Progress == nil {
		options.Progress = os.Stderr
	}
	s := &Server{options: options, transport: &http.Transport{}}
	defer func() {
		if err != nil {
			s.Stop()
			err = fmt.Errorf("starting OpenBao: %w", err)
		}
	}()
	if s.program, err = tools.Build(ctx, tools.OpenBao, options.Progress); err != nil {
		return nil, err
	}
	if options.Dir == "" {
		if s.options.Dir, err = os.MkdirTemp("", "fleet-openbao-"); err != nil {
			return nil, fmt.Errorf("making a temporary folder: %w", err)
		}
		s.tempDir = true
	} else if err := os.MkdirAll(options.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder: %w", err)
	}
	if options.Port == 0 {
		if s.options.Port, err = process.FreePort(); err != nil {
			return nil, fmt.Errorf("choosing a port: %w", err)
		}
	}
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Server) run(ctx context.Context) error {
	var err error
	s.process, err = process.Start(process.Spec{
		Path: s.program,
		Args: []string{"-address", s.hostPort(), "-dir", s.options.Dir},
		Log:  filepath.Join(s.options.Dir, "output.log"),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return s.process.WaitReady(ctx, s.probe)
}

// probe succeeds when the server of this folder answers: another one on the same
// port would not know the token.
func (s *Server) probe(ctx context.Context) error {
	content, err := os.ReadFile(filepath.Join(s.options.Dir, "keys.json"))
	if err != nil {
		return fmt.Errorf("reading the server's keys: %w", err)
	}
	var keys struct{ RootToken string }
	if err := json.Unmarshal(content, &keys); err != nil {
		return fmt.Errorf("reading the server's keys: %w", err)
	}
	s.rootToken = keys.RootToken
	admin, err := s.admin()
	if err != nil {
		return err
	}
	if _, err := admin.Auth().Token().LookupSelfWithContext(ctx); err != nil {
		return fmt.Errorf("asking the server about its root token: %w", err)
	}
	return nil
}

func (s *Server) hostPort() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.options.Port))
}

// Address of the server, such as "http://127.0.0.1:8200".
func (s *Server) Address() string { return "http://" + s.hostPort() }

// RootToken may do everything. A restart does not change it.
func (s *Server) RootToken() string { return s.rootToken }

// PID is the process id of the server.
func (s *Server) PID() int { return s.process.PID() }

// Client acts with the token, which may be empty for a login. It does not look at
// the environment and does not try again by itself, so that a test sees each
// failure. Stop closes its connections.
func (s *Server) Client(token string) (*api.Client, error) {
	config := api.NewConfig()
	if config.Error != nil {
		return nil, fmt.Errorf("configuring a client of OpenBao: %w", config.Error)
	}
	config.Address, config.MaxRetries = s.Address(), 0
	config.HttpClient.Transport = s.transport
	client, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of OpenBao: %w", err)
	}
	client.SetToken(token)
	return client, nil
}

func (s *Server) admin() (*api.Client, error) { return s.Client(s.rootToken) }

// Kill ends the server with SIGKILL and returns when it is gone. The data stays.
func (s *Server) Kill() {
	s.process.Stop(0)
	s.transport.CloseIdleConnections()
}

// Restart starts the server again on the same port and data, after stopping it
// when it runs.
func (s *Server) Restart(ctx context.Context) error {
	s.process.Stop(10 * time.Second)
	s.transport.CloseIdleConnections()
	if err := s.run(ctx); err != nil {
		return fmt.Errorf("restarting OpenBao: %w", err)
	}
	return nil
}

// Stop stops the server and removes the folder that it made for itself. It may be
// called more than once.
func (s *Server) Stop() {
	if s.process != nil {
		s.process.Stop(10 * time.Second)
	}
	s.transport.CloseIdleConnections()
	if s.tempDir {
		_ = os.RemoveAll(s.options.Dir) // a temporary folder
	}
}
