package bench

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// span is when a request to podman was under way.
type span struct {
	removal    bool // of what is left of an earlier version: nobody waits for it
	begin, end time.Time
}

// stopwatch stands before a podman service, and keeps how long it took for what.
type stopwatch struct {
	server *http.Server
	path   string
	// started is when podman had started a container.
	started chan time.Time

	mu    sync.Mutex
	spans []span // with mu
}

// newStopwatch listens in the folder dir for requests to the service at that socket.
func newStopwatch(dir, socket string) (*stopwatch, error) {
	w := &stopwatch{path: filepath.Join(dir, "podman.sock"), started: make(chan time.Time, 2*containers)}
	listener, err := net.Listen("unix", w.path)
	if err != nil {
		return nil, fmt.Errorf("standing before podman: %w", err)
	}
	service, silent := strings.TrimPrefix(socket, "unix://"), log.New(io.Discard, "", 0)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "podman" },
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", service)
		}},
		FlushInterval: -1, // a pull tells as it goes
		ErrorLog:      silent,
	}
	w.server = &http.Server{Handler: w.keep(proxy), ReadHeaderTimeout: time.Minute, ErrorLog: silent}
	go w.server.Serve(listener) //nolint:errcheck // ends with ErrServerClosed
	return w, nil
}

func (w *stopwatch) stop() error { return w.server.Close() }

// socket is the address of podman for the agent.
func (w *stopwatch) socket() string { return "unix://" + w.path }

func (w *stopwatch) keep(podman http.Handler) http.Handler {
	return http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		s := span{removal: request.Method == http.MethodDelete, begin: time.Now()}
		podman.ServeHTTP(answer, request)
		s.end = time.Now()
		w.mu.Lock()
		w.spans = append(w.spans, s)
		w.mu.Unlock()
		if strings.HasSuffix(request.URL.Path, "/start") {
			w.started <- s.end
		}
	})
}

// await is when podman had started the next container, and forgets what was before.
func (w *stopwatch) await(ctx context.Context) (time.Time, error) {
	select {
	case <-ctx.Done():
		return time.Time{}, context.Cause(ctx)
	case at := <-w.started:
		return at, nil
	}
}

// busy is how long between the two times something was waited for that podman did.
func (w *stopwatch) busy(from, to time.Time) time.Duration {
	w.mu.Lock()
	spans := slices.Clone(w.spans)
	w.mu.Unlock()
	return covered(spans, from, to)
}

// covered is how much of the time between from and to lies in a span.
func covered(spans []span, from, to time.Time) (total time.Duration) {
	slices.SortFunc(spans, func(a, b span) int { return a.begin.Compare(b.begin) })
	for _, s := range spans {
		if s.removal || !s.end.After(from) || !s.begin.Before(to) {
			continue
		}
		begin, end := s.begin, s.end
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		if end.After(begin) {
			total += end.Sub(begin)
			from = end // what lies under this one is counted
		}
	}
	return total
}
