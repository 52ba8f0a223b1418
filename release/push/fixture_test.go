package push

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/nationtech/harmony-fleet/release/attest"
	"github.com/nationtech/harmony-fleet/release/images"
	"github.com/nationtech/harmony-fleet/release/source"
)

// released builds what a release has, once.
var released = sync.OnceValues(func() ([]images.Made, error) {
	tree, err := source.Read(context.Background(), ".")
	if err != nil {
		return nil, err
	}
	return images.Build{Images: images.Released, Architectures: images.Architectures, Source: tree, Progress: os.Stderr}.Make(context.Background())
})

// site is a registry on loopback, a key, and what goes from here to there.
type site struct {
	*testing.T
	made     []images.Made
	host     string
	target   Target
	progress bytes.Buffer
	public   crypto.PublicKey
	keyFile  string // of the public key

	mu sync.Mutex
	// writes are how many changes the registry takes before its disk is full; fewer
	// than none is any number.
	writes int
}

// newSite starts a registry that has the referrers API of OCI 1.1, or lacks it.
func newSite(t *testing.T, referrers bool) *site {
	t.Helper()
	s := &site{T: t, writes: -1}
	var err error
	s.made, err = released()
	s.must(err)
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(referrers))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead && !s.take() {
			http.Error(w, `{"errors":[{"code":"DENIED","message":"the disk is full"}]}`, http.StatusInsufficientStorage)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.host = strings.TrimPrefix(server.URL, "http://")
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	s.target = Target{
		Registry: s.host + "/team/fleet", Builder: "https://example.com/workflow", Progress: &s.progress, Transport: transport,
		Source: source.Source{Root: "../..", Commit: strings.Repeat("c0ffee00", 5)},
	}
	s.target.Key, s.public = newKey(t)
	public, err := cryptoutils.MarshalPublicKeyToPEM(s.public)
	s.must(err)
	s.keyFile = filepath.Join(t.TempDir(), "cosign.pub")
	s.must(os.WriteFile(s.keyFile, public, 0o600))
	return s
}

func newKey(t *testing.T) (*attest.Key, crypto.PublicKey) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	data, err := cryptoutils.MarshalPrivateKeyToPEM(private)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := attest.ReadKey(file)
	if err != nil {
		t.Fatal(err)
	}
	return key, private.Public()
}

// take is whether the registry takes another change.
func (s *site) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writes == 0 {
		return false
	}
	s.writes--
	return true
}

// allow lets the registry take so many changes.
func (s *site) allow(writes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = writes
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// push must succeed.
func (s *site) push() []Pushed {
	s.Helper()
	pushed, err := s.target.Images(s.Context(), s.made)
	s.must(err)
	return pushed
}

func (s *site) repository(image string) name.Repository {
	s.Helper()
	repository, err := name.NewRepository(s.target.Registry + "/" + image)
	s.must(err)
	return repository
}

// content is every tag of the image with its digest.
func (s *site) content(image string) map[string]string {
	s.Helper()
	tags, err := remote.List(s.repository(image), s.target.options(s.Context())...)
	if missing(err) {
		return nil
	}
	s.must(err)
	all := map[string]string{}
	for _, tag := range tags {
		found, err := remote.Head(s.repository(image).Tag(tag), s.target.options(s.Context())...)
		s.must(err)
		all[tag] = found.Digest.String()
	}
	return all
}

// referrer is a manifest that refers to another, with its first document.
type referrer struct {
	manifest v1.Manifest
	digest   v1.Hash
	document []byte
}

// referrers are those of a manifest, by the type of artifact.
func (s *site) referrers(image string, digest v1.Hash) map[string][]referrer {
	s.Helper()
	options := s.target.options(s.Context())
	index, err := remote.Referrers(s.repository(image).Digest(digest.String()), options...)
	s.must(err)
	list, err := index.IndexManifest()
	s.must(err)
	all := map[string][]referrer{}
	for _, m := range list.Manifests {
		found, err := remote.Get(s.repository(image).Digest(m.Digest.String()), options...)
		s.must(err)
		r := referrer{digest: m.Digest}
		s.must(json.Unmarshal(found.Manifest, &r.manifest))
		layer, err := remote.Layer(s.repository(image).Digest(r.manifest.Layers[0].Digest.String()), options...)
		s.must(err)
		content, err := layer.Compressed()
		s.must(err)
		r.document, err = io.ReadAll(content)
		s.must(err)
		s.must(content.Close())
		if r.manifest.Subject.Digest != digest {
			s.Errorf("%s refers to %s, not to %s", m.Digest, r.manifest.Subject.Digest, digest)
		}
		all[r.manifest.ArtifactType] = append(all[r.manifest.ArtifactType], r)
	}
	return all
}
