// Package registry is an OCI registry on loopback that keeps images in memory,
// for tests that pull: it counts pulls and breaks on demand. It has no
// authentication and no TLS and never stores anything.
package registry

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Fault is how a registry misbehaves.
type Fault int

const (
	// Healthy is no fault.
	Healthy Fault = iota
	// Failing answers every request with status 500.
	Failing
	// Down breaks every connection without an answer.
	Down
	// Hanging lets every request wait.
	Hanging
)

// Registry is a running registry.
type Registry struct {
	server   *http.Server
	listener net.Listener
	images   http.Handler

	mu    sync.Mutex
	fault Fault
	pulls map[string]int // by repository
	blobs map[string]int
}

// Start runs a registry on a free port of 127.0.0.1.
func Start() (*Registry, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("starting a registry: %w", err)
	}
	silent := log.New(io.Discard, "", 0)
	r := &Registry{listener: listener, images: registry.New(registry.Logger(silent)), pulls: map[string]int{}, blobs: map[string]int{}}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second, ErrorLog: silent}
	go r.server.Serve(listener) //nolint:errcheck // ends with ErrServerClosed
	return r, nil
}

// Addr is the registry's host and port, the first part of an image reference.
func (r *Registry) Addr() string { return r.listener.Addr().String() }

// Ref is the full reference of an image, given as repository:tag or
// repository@digest.
func (r *Registry) Ref(image string) string { return r.Addr() + "/" + image }

// Push stores an image under repository:tag.
func (r *Registry) Push(ref string, img v1.Image) error {
	tag, err := name.NewTag(r.Ref(ref), name.Insecure)
	if err != nil {
		return fmt.Errorf("pushing: %w", err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if err := remote.Write(tag, img, remote.WithTransport(transport)); err != nil {
		return fmt.Errorf("pushing %s: %w", ref, err)
	}
	return nil
}

// Pulls is how many times a manifest of the repository has been fetched, failed
// attempts included.
func (r *Registry) Pulls(repository string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pulls[repository]
}

// Blobs is how many times a blob of the repository has been asked for.
func (r *Registry) Blobs(repository string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.blobs[repository]
}

// Break makes the registry misbehave until Break(Healthy).
func (r *Registry) Break(f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = f
}

// Stop ends the registry; what it held is gone.
func (r *Registry) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if r.server.Shutdown(ctx) == nil {
		return nil
	}
	if err := r.server.Close(); err != nil { // a client holds its connection
		return fmt.Errorf("stopping the registry: %w", err)
	}
	return nil
}

// ServeHTTP counts pulls and applies the fault.
func (r *Registry) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	fault := r.fault
	path := strings.TrimPrefix(request.URL.Path, "/v2/")
	for part, counts := range map[string]map[string]int{"/manifests/": r.pulls, "/blobs/": r.blobs} {
		if i := strings.LastIndex(path, part); i > 0 && request.Method == http.MethodGet {
			counts[path[:i]]++
		}
	}
	r.mu.Unlock()
	switch fault {
	case Failing:
		http.Error(w, "the registry fails on purpose", http.StatusInternalServerError)
	case Down:
		panic(http.ErrAbortHandler)
	case Hanging:
		r.wait(request)
		fallthrough
	default:
		r.images.ServeHTTP(w, request)
	}
}

// wait returns when nothing hangs any more, or nobody waits for the answer.
func (r *Registry) wait(request *http.Request) {
	for request.Context().Err() == nil {
		r.mu.Lock()
		fault := r.fault
		r.mu.Unlock()
		if fault != Hanging {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}
