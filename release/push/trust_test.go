package push

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"

	"github.com/nationtech/harmony-fleet/release/version"
)

// allowed asks podman's library whether a node that trusts the key alone may run
// what the reference names: first the list of platforms, then each platform.
func (s *site) allowed(reference string, platforms ...string) error {
	s.Helper()
	folder := s.TempDir()
	s.must(os.WriteFile(filepath.Join(folder, "r.yaml"), []byte("default-docker:\n  use-sigstore-attachments: true\n"), 0o600))
	system := &types.SystemContext{RegistriesDirPath: folder, DockerInsecureSkipTLSVerify: types.OptionalBoolTrue, AuthFilePath: filepath.Join(folder, "none.json"), SystemRegistriesConfPath: os.DevNull}
	rules, err := json.Marshal(map[string]any{"default": []map[string]string{{"type": "sigstoreSigned", "keyPath": s.keyFile}}})
	s.must(err)
	policy, err := signature.NewPolicyFromBytes(rules)
	s.must(err)
	trust, err := signature.NewPolicyContext(policy)
	s.must(err)
	defer trust.Destroy() //nolint:errcheck // nothing is left of it
	ref, err := docker.ParseReference("//" + reference)
	s.must(err)
	source, err := ref.NewImageSource(s.Context(), system)
	s.must(err)
	defer source.Close() //nolint:errcheck // of a reader
	if _, err := trust.IsRunningImageAllowed(s.Context(), image.UnparsedInstance(source, nil)); err != nil {
		return err
	}
	for _, p := range platforms {
		instance := digest.Digest(p)
		if _, err := trust.IsRunningImageAllowed(s.Context(), image.UnparsedInstance(source, &instance)); err != nil {
			return err
		}
	}
	return nil
}

// TestPodmanTrusts: a machine whose policy names the key runs the images by tag and
// by digest, and nothing else.
func TestPodmanTrusts(t *testing.T) {
	s := newSite(t, true)
	pushed := s.push()
	for i, made := range s.made {
		var platforms []string
		for _, p := range made.Platforms {
			platform, err := p.Image.Digest()
			s.must(err)
			platforms = append(platforms, platform.String())
		}
		for _, ref := range []string{s.target.Registry + "/" + made.Name + ":" + version.Number, pushed[i].Ref.Name()} {
			if err := s.allowed(ref, platforms...); err != nil {
				t.Errorf("%s is refused: %v", ref, err)
			}
		}
	}
	s.must(remote.Tag(s.repository(s.made[0].Name).Tag("0.0.9"), s.made[0].Index, s.target.options(t.Context())...))
	if err := s.allowed(s.target.Registry + "/" + s.made[0].Name + ":0.0.9"); err == nil || !strings.Contains(err.Error(), "is not accepted") {
		t.Errorf("the image under a tag that was not signed: %v", err)
	}
	unsigned, err := random.Image(1024, 1)
	s.must(err)
	s.must(remote.Write(s.repository(s.made[0].Name).Tag("unsigned"), unsigned, s.target.options(t.Context())...))
	if err := s.allowed(s.target.Registry + "/" + s.made[0].Name + ":unsigned"); err == nil || !strings.Contains(err.Error(), "signature") {
		t.Errorf("an image that nobody signed: %v", err)
	}
	s.target.Key, _ = newKey(t)
	s.target.Registry += "/other"
	s.push()
	if err := s.allowed(s.target.Registry + "/" + s.made[0].Name + ":" + version.Number); err == nil || !strings.Contains(err.Error(), "signature") {
		t.Errorf("an image that is signed by another key: %v", err)
	}
}
