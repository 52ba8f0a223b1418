// Package podman talks to one podman service over its socket: it carries out the
// steps of agent/reconcile, lists this device's containers, reads their logs and
// holds the secrets that they are given.
//
// It never decides what to do, and it never touches a container that does not
// carry this device's labels, nor a secret that is not named for the device. Of
// the bindings it uses the connection and the specification of a container, and it
// decodes just the fields that it reads: the packages for each kind of object
// would cost the agent 14 MiB of memory.
package podman

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containers/podman/v5/pkg/bindings"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
)

// callTimeout bounds a call that podman answers from what it knows.
const callTimeout = 30 * time.Second

// The oldest podman that is supported: Debian 12 has it.
const minMajor, minMinor = 4, 3

// Client is a podman service, which need not be there all the time. Its methods
// may be called from several goroutines, and their errors are
// *reconcile.Failure where nothing else is said.
type Client struct {
	socket string

	mu   sync.Mutex
	conn *bindings.Connection // nil until the service answered once
	// graphRoot is where podman keeps images; "" until that was asked for.
	graphRoot string
}

// New is a client of the service on the socket, a URL such as
// unix:///run/podman/podman.sock; "" means DefaultSocket. It does not connect.
func New(socketURL string) *Client {
	if socketURL == "" {
		socketURL = DefaultSocket()
	}
	return &Client{socket: socketURL}
}

// Connect is New for a service that shall be there: it fails when podman does
// not answer or is too old.
func Connect(ctx context.Context, socketURL string) (*Client, error) {
	c := New(socketURL)
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := c.connection(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// DefaultSocket is the rootful socket for root and the user's own for others.
func DefaultSocket() string {
	if os.Geteuid() == 0 {
		return "unix:///run/podman/podman.sock"
	}
	runtime := os.Getenv("XDG_RUNTIME_DIR")
	if runtime == "" {
		runtime = fmt.Sprintf("/run/user/%d", os.Geteuid())
	}
	return "unix://" + filepath.Join(runtime, "podman", "podman.sock")
}

// connection checks on the first call that podman answers and is new enough.
func (c *Client) connection(ctx context.Context) (*bindings.Connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		return c.conn, nil
	}
	path := strings.TrimPrefix(c.socket, "unix://")
	if _, err := os.Stat(path); err != nil {
		if _, err := exec.LookPath("podman"); err != nil {
			return nil, unavailable("podman is not installed; install podman %d.%d or newer, and %s", minMajor, minMinor, startHint())
		}
		return nil, unavailable("podman socket %s is not there; %s", path, startHint())
	}
	ctx, err := bindings.NewConnection(ctx, c.socket)
	if err != nil {
		return nil, unavailable("podman does not answer on %s: %w; %s", path, err, startHint())
	}
	if v := bindings.ServiceVersion(ctx); v.Major < minMajor || (v.Major == minMajor && v.Minor < minMinor) {
		return nil, unavailable("podman %s is too old; install podman %d.%d or newer", v, minMajor, minMinor)
	}
	c.conn, err = bindings.GetClient(ctx)
	return c.conn, err
}

func startHint() string {
	if os.Geteuid() == 0 {
		return "run: systemctl enable --now podman.socket"
	}
	return "run: systemctl --user enable --now podman.socket"
}

// call is one request to podman.
type call struct {
	// doing completes "while …" for people.
	doing  string
	method string
	// path below /libpod, with %s for each of names.
	path  string
	names []string
	query url.Values
	// body is sent as JSON, or raw as it is.
	body any
	raw  []byte
	// timeout of the whole call; 0 means callTimeout.
	timeout time.Duration
}

// do makes the call and decodes the answer into value unless that is nil. It
// reports the HTTP status.
func (c *Client) do(ctx context.Context, r call, value any) (int, error) {
	if r.timeout == 0 {
		r.timeout = callTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	response, err := c.send(ctx, r)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if err := response.Process(value); err != nil {
		return response.StatusCode, failure(r, err)
	}
	return response.StatusCode, nil
}

// send makes the call; the caller closes the body.
func (c *Client) send(ctx context.Context, r call) (*bindings.APIResponse, error) {
	conn, err := c.connection(ctx)
	if err != nil {
		return nil, err
	}
	var body io.Reader
	var headers http.Header
	if r.raw != nil {
		body, headers = bytes.NewReader(r.raw), http.Header{"Content-Type": {"application/octet-stream"}}
	} else if r.body != nil {
		data, err := json.Marshal(r.body)
		if err != nil {
			return nil, fmt.Errorf("encoding the request while %s: %w", r.doing, err)
		}
		body, headers = bytes.NewReader(data), http.Header{"Content-Type": {"application/json"}}
	}
	response, err := conn.DoRequest(ctx, body, r.method, r.path, r.query, headers, r.names...)
	if err != nil {
		return nil, failure(r, err)
	}
	return response, nil
}

// failure tells a call that did not get through from one that podman refused.
func failure(r call, err error) *reconcile.Failure {
	var refused interface{ Code() int }
	switch {
	case errors.As(err, &refused):
		text := err.Error()
		return &reconcile.Failure{Reason: Reason(text), Message: text}
	case errors.Is(err, context.DeadlineExceeded):
		return &reconcile.Failure{
			Reason:  reconcile.ReasonPodmanTimeout,
			Message: fmt.Sprintf("podman did not answer within %s while %s", r.timeout, r.doing),
		}
	}
	return unavailable("lost podman while %s: %w", r.doing, err)
}

func unavailable(format string, values ...any) *reconcile.Failure {
	return &reconcile.Failure{Reason: reconcile.ReasonPodmanUnavailable, Message: fmt.Errorf(format, values...).Error()}
}

// Version is podman's own version.
func (c *Client) Version(ctx context.Context) (string, error) {
	v, err := c.version(ctx)
	return v.Version, err
}

// version is what podman tells of itself.
type version struct {
	Version string
	Arch    string // of the host, as Go has it
}

func (c *Client) version(ctx context.Context) (v version, err error) {
	_, err = c.do(ctx, call{doing: "asking for the version", method: http.MethodGet, path: "/version"}, &v)
	return v, err
}

// DiskBytes is the size of the file system that holds images and containers. To
// tell it podman looks all of the host over: on Debian it asks dpkg for the packages
// of several programs, so it is not for every day.
func (c *Client) DiskBytes(ctx context.Context) (uint64, error) {
	s, err := c.storage(ctx)
	return s.Allocated, err
}

// storage is where podman keeps images and containers, in bytes.
type storage struct {
	GraphRoot string
	Allocated uint64 `json:"graphRootAllocated"`
	Used      uint64 `json:"graphRootUsed"`
}

func (c *Client) storage(ctx context.Context) (storage, error) {
	var info struct{ Store storage }
	_, err := c.do(ctx, call{doing: "asking for the host", method: http.MethodGet, path: "/info"}, &info)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.graphRoot = info.Store.GraphRoot
	}
	return info.Store, err
}

// Close lets go of idle connections. The client may be used again.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.Client.CloseIdleConnections()
	}
}
