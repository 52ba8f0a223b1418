// Package push puts the images and the chart of a release into a registry, with
// what is said about them: bills of materials, signatures and provenance. A version
// that was released is never replaced, and none can be pulled by its tag before
// everything about it is there. It builds nothing.
package push

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/nationtech/harmony-fleet/release/attest"
	"github.com/nationtech/harmony-fleet/release/source"
)

// Target is where a release goes, and in whose name.
type Target struct {
	// Registry is the first part of every reference, as CheckRegistry wants it.
	Registry string
	Key      *attest.Key
	// Builder is the URI of whom the provenance names as the builder.
	Builder  string
	Source   source.Source
	Progress io.Writer // hears what is done, a line at a time
	// Transport is that of HTTP; nil is the usual one.
	Transport http.RoundTripper
}

// CheckRegistry refuses what cannot be the first part of an image's reference: a
// host, which may have a port, and a path.
func CheckRegistry(registry string) error {
	const form = "REGISTRY is a host and a path, such as registry.example/team/fleet"
	host, _, _ := strings.Cut(registry, "/")
	switch {
	case registry == "":
		return errors.New("no registry: " + form)
	case strings.Contains(registry, "://"):
		return fmt.Errorf("registry %q: leave out %q; %s", registry, registry[:strings.Index(registry, "://")+3], form)
	case strings.HasSuffix(registry, "/") || strings.Contains(registry, "//"):
		return fmt.Errorf("registry %q: there is nothing after a slash; %s", registry, form)
	case host != "localhost" && !strings.ContainsAny(host, ".:"):
		// It would be taken for a path on a registry that nobody named.
		return fmt.Errorf("registry %q: %q is not a host; %s", registry, host, form)
	}
	if _, err := name.NewRepository(registry+"/image", name.StrictValidation); err != nil {
		return fmt.Errorf("registry %q: %s: %w", registry, form, err)
	}
	return nil
}

// options carry the user's logins: those of docker login and podman login.
func (t Target) options(ctx context.Context) []remote.Option {
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent("harmony-fleet-release")}
	if t.Transport != nil {
		options = append(options, remote.WithTransport(t.Transport))
	}
	return options
}

// digestOf is the digest that the registry has under the tag, and none when it
// does not know the tag.
func (t Target) digestOf(ctx context.Context, tag name.Tag) (v1.Hash, error) {
	found, err := remote.Head(tag, t.options(ctx)...)
	if missing(err) {
		return v1.Hash{}, nil
	}
	if err != nil {
		return v1.Hash{}, fmt.Errorf("asking the registry for %s: %w", tag, err)
	}
	return found.Digest, nil
}

func missing(err error) bool {
	var answer *transport.Error
	return errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound
}
