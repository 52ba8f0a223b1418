package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// WaitReady calls probe until it returns nil. It fails when the program ends or
// the context is done; either way the error has the last lines of the log.
func (p *Process) WaitReady(ctx context.Context, probe func(context.Context) error) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return p.Failure()
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w: %w; its last lines:\n%s", p.spec.Path, context.Cause(ctx), err, p.LogTail(15))
		case <-ticker.C:
		}
	}
}

// Answers is nil when there is "200 OK" at the URL, such as a /readyz, and else an
// error with what there is.
func Answers(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10)) // what is missing, where it says so
		return fmt.Errorf("%s: %s %s", url, response.Status, body)
	}
	return nil
}

// Ports below the range that the kernel hands out by itself, so that a server
// that is stopped and started again finds its port still free.
const firstPort, lastPort = 20000, 32000

// taken are the names of the ports that this process was given, see take. An entry
// keeps its listener from being closed.
var taken sync.Map

// FreePort returns a TCP port of 127.0.0.1 that is free, and that no other process gets
// from here until this one has ended: tests run in many, and what one of them stops and
// starts again finds its port as it was. One that can be listened on is not free when a
// rule for a container's port, perhaps of one that was killed, leads connections
// elsewhere.
func FreePort() (int, error) {
	for range 100 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if err := take(port); errors.Is(err, syscall.EADDRINUSE) {
			continue
		} else if err != nil {
			return 0, fmt.Errorf("taking port %d of 127.0.0.1: %w", port, err)
		}
		if free(net.JoinHostPort("127.0.0.1", strconv.Itoa(port))) {
			return port, nil
		}
	}
	return 0, errors.New("no free port on 127.0.0.1 after 100 attempts")
}

// take is an error that is EADDRINUSE when somebody has it.
func take(port int) error {
	// Such a name belongs to the host's network, as ports do, and lies in no folder.
	name, err := net.Listen("unix", fmt.Sprintf("@harmony-fleet-port-%d", port))
	if err == nil {
		taken.Store(port, name)
	}
	return err
}

// free listens, and connects to itself.
func free(address string) bool {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return false
	}
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err == nil {
		conn.Close()
	}
	return listener.Close() == nil && err == nil
}
