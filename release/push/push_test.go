package push

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/nationtech/harmony-fleet/release/attest"
	"github.com/nationtech/harmony-fleet/release/images"
	"github.com/nationtech/harmony-fleet/release/sbom"
	"github.com/nationtech/harmony-fleet/release/version"
)

// TestPushAndPull: what is pulled by the tag is what was made, for each platform,
// and its program runs.
func TestPushAndPull(t *testing.T) {
	s := newSite(t, true)
	for i, p := range s.push() {
		made := s.made[i]
		want, err := made.Index.Digest()
		s.must(err)
		if p.Image != made.Name || p.Digest != want || p.Ref.Name() != s.target.Registry+"/"+made.Name+"@"+want.String() {
			t.Errorf("Images() says %+v, want %s", p, want)
		}
		s.pull(made, want)
	}
}

func (s *site) pull(made images.Made, want v1.Hash) {
	s.Helper()
	options := s.target.options(s.Context())
	tag := s.repository(made.Name).Tag(version.Number)
	index, err := remote.Index(tag, options...)
	s.must(err)
	s.must(validate.Index(index))
	if got, err := index.Digest(); err != nil || got != want {
		s.Errorf("%s is %s, %v, want %s", tag, got, err, want)
	}
	for _, p := range made.Platforms {
		platform := v1.Platform{OS: "linux", Architecture: p.Architecture}
		image, err := remote.Image(tag, append(options, remote.WithPlatform(platform))...)
		s.must(err)
		want, err := p.Image.Digest()
		s.must(err)
		if got, err := image.Digest(); err != nil || got != want {
			s.Errorf("%s of %s is %s, %v, want %s", tag, platform, got, err, want)
		}
		if p.Architecture == runtime.GOARCH {
			s.run(image)
		}
	}
}

// run runs what the image runs, and asks for its version.
func (s *site) run(image v1.Image) {
	s.Helper()
	config, err := image.ConfigFile()
	s.must(err)
	flat := mutate.Extract(image)
	defer flat.Close()
	for r := tar.NewReader(flat); ; {
		header, err := r.Next()
		s.must(err)
		if "/"+header.Name != config.Config.Entrypoint[0] {
			continue
		}
		content, err := io.ReadAll(r)
		s.must(err)
		program := filepath.Join(s.TempDir(), "program")
		s.must(os.WriteFile(program, content, 0o700))
		out, err := exec.Command(program, "--version").CombinedOutput()
		if err != nil || !strings.Contains(string(out), version.Tag) {
			s.Errorf("%s --version says %q, %v", header.Name, out, err)
		}
		return
	}
}

// TestReferrers: each platform has its bill of materials, and the index one
// statement of provenance, whose signature covers all of them.
func TestReferrers(t *testing.T) {
	for kind, referrers := range map[string]bool{"with the referrers API": true, "without the referrers API": false} {
		t.Run(kind, func(t *testing.T) {
			s := newSite(t, referrers)
			s.push()
			s.push() // leaves nothing twice
			for _, made := range s.made {
				digest, err := made.Index.Digest()
				s.must(err)
				subjects := []string{digest.Hex}
				var bills []string
				for _, p := range made.Platforms {
					platform, err := p.Image.Digest()
					s.must(err)
					found := s.referrers(made.Name, platform)
					if n := len(found[sbom.MediaType]); n != 1 || len(found[attest.SignatureType]) != 1 || !bytes.Equal(found[sbom.MediaType][0].document, p.SBOM) {
						t.Errorf("%s for %s has %d bills and other referrers %v", made.Name, p.Architecture, n, slices.Collect(maps.Keys(found)))
						continue
					}
					subjects, bills = append(subjects, platform.Hex), append(bills, found[sbom.MediaType][0].digest.Hex)
				}
				found := s.referrers(made.Name, digest)
				if len(found[attest.ProvenanceType]) != 1 || len(found[attest.SignatureType]) != 1 {
					t.Fatalf("%s is referred to by %v", made.Name, found)
				}
				provenance := found[attest.ProvenanceType][0]
				if got := s.content(made.Name)[attest.AttestationTag(digest)]; got != provenance.digest.String() {
					t.Errorf("cosign finds %q, want %s", got, provenance.digest)
				}
				s.checkProvenance(provenance.document, subjects, bills)
			}
		})
	}
}

func (s *site) checkProvenance(document []byte, subjects, bills []string) {
	s.Helper()
	var envelope dsse.Envelope
	s.must(json.Unmarshal(document, &envelope))
	verifier, err := dsse.NewEnvelopeVerifier(verifier{s.public})
	s.must(err)
	if _, err := verifier.Verify(s.Context(), &envelope); err != nil {
		s.Fatalf("the provenance is not signed by the key: %v", err)
	}
	data, err := envelope.DecodeB64Payload()
	s.must(err)
	var statement intoto.Statement
	s.must(protojson.Unmarshal(data, &statement))
	s.must(statement.Validate())
	var got []string
	for _, subject := range statement.GetSubject() {
		got = append(got, subject.GetDigest()["sha256"])
	}
	if diff := cmp.Diff(subjects, got); diff != "" {
		s.Errorf("subjects (- want, + got):\n%s", diff)
	}
	text := string(data)
	for _, want := range append(bills, `"predicateType":"https://slsa.dev/provenance/v1"`, `"gitCommit":"`+s.target.Source.Commit+`"`, `"id":"https://example.com/workflow"`, `"goVersion":"`+runtime.Version()+`"`) {
		if !strings.Contains(text, want) {
			s.Errorf("the statement lacks %s:\n%s", want, text)
		}
	}
}

// verifier checks with the public key alone.
type verifier struct{ key crypto.PublicKey }

// Verify checks one signature.
func (v verifier) Verify(_ context.Context, data, sig []byte) error {
	digest := sha256.Sum256(data)
	if !ecdsa.VerifyASN1(v.key.(*ecdsa.PublicKey), digest[:], sig) {
		return fmt.Errorf("not by this key")
	}
	return nil
}

// KeyID is empty: any key may be meant.
func (v verifier) KeyID() (string, error) { return "", nil }

// Public is the key.
func (v verifier) Public() crypto.PublicKey { return v.key }

// TestDiskFull: the registry breaks again and again, a bit later each time. Each
// time it is told what was being done; no tag is there before the end, when all is
// as if nothing had happened.
func TestDiskFull(t *testing.T) {
	straight, broken := newSite(t, true), newSite(t, true)
	broken.target.Key = straight.target.Key
	straight.push()
	failures := 0
	for writes := 7; ; writes += 4 {
		broken.allow(writes)
		_, err := broken.target.Images(t.Context(), broken.made)
		if err == nil {
			break
		}
		failures++
		for _, words := range []string{"pushing " + broken.target.Registry, "the same command completes", "the disk is full"} {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("the error lacks %q: %v", words, err)
			}
		}
		last := broken.made[len(broken.made)-1].Name
		if _, tagged := broken.content(last)[version.Number]; tagged {
			t.Errorf("%s can be pulled before all is there", last)
		}
	}
	if failures < 4 {
		t.Errorf("it failed %d times: too few to say anything", failures)
	}
	for _, made := range straight.made {
		want := straight.content(made.Name)
		if _, tagged := want[version.Number]; !tagged {
			t.Errorf("%s has %v", made.Name, want)
		}
		// The references in claims have the registry's address, so what is signed
		// differs, and what was built does not.
		if got := broken.content(made.Name); got[version.Number] != want[version.Number] || !slices.Equal(keys(got), keys(want)) {
			t.Errorf("%s has %v, want %v", made.Name, got, want)
		}
	}
}

func keys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// TestRepeat: a second push changes nothing.
func TestRepeat(t *testing.T) {
	s := newSite(t, false)
	s.push()
	before := s.content(s.made[0].Name)
	s.allow(0)
	s.push()
	if diff := cmp.Diff(before, s.content(s.made[0].Name)); diff != "" {
		t.Errorf("the second push changed something:\n%s", diff)
	}
}

// TestOthersSignatures: a signature that somebody adds to ours survives a repeat.
func TestOthersSignatures(t *testing.T) {
	s := newSite(t, true)
	s.push()
	digest, err := s.made[0].Index.Digest()
	s.must(err)
	ref := s.repository(s.made[0].Name).Tag(attest.SignatureTag(digest))
	both, err := remote.Image(ref, s.target.options(t.Context())...)
	s.must(err)
	both = mutate.Annotations(both, map[string]string{"by": "others"}).(v1.Image)
	s.must(remote.Write(ref, both, s.target.options(t.Context())...))
	before := s.content(s.made[0].Name)
	s.push()
	if diff := cmp.Diff(before, s.content(s.made[0].Name)); diff != "" {
		t.Errorf("the repeat replaced it:\n%s", diff)
	}
}

// TestReleasedIsNotReplaced: another image under the same version is refused before
// anything is pushed.
func TestReleasedIsNotReplaced(t *testing.T) {
	s := newSite(t, true)
	s.push()
	before := [2]map[string]string{s.content(s.made[0].Name), s.content(s.made[1].Name)}
	s.made = slices.Clone(s.made)
	s.made[1].Index = mutate.Annotations(s.made[1].Index, map[string]string{"another": "build"}).(v1.ImageIndex)
	_, err := s.target.Images(t.Context(), s.made)
	if err == nil || !strings.Contains(err.Error(), "is released as sha256:") || !strings.Contains(err.Error(), "raise Number in release/version") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, [2]map[string]string{s.content(s.made[0].Name), s.content(s.made[1].Name)}); diff != "" {
		t.Errorf("something was pushed:\n%s", diff)
	}
}

func TestCheckRegistry(t *testing.T) {
	tests := map[string]struct{ registry, err string }{
		"host and path":       {"registry.example/team/fleet", ""},
		"host alone":          {"registry.example", ""},
		"host and port":       {"127.0.0.1:5000/fleet", ""},
		"localhost":           {"localhost/fleet", ""},
		"none":                {"", "no registry: REGISTRY is a host and a path, such as"},
		"with a scheme":       {"https://registry.example/fleet", `leave out "https://"`},
		"a path alone":        {"team/fleet", `"team" is not a host`},
		"with a tag":          {"registry.example/fleet:1", "REGISTRY is a host and a path"},
		"with a trailing /":   {"registry.example/fleet/", "nothing after a slash"},
		"two slashes":         {"registry.example//fleet", "nothing after a slash"},
		"upper case":          {"registry.example/Fleet", "REGISTRY is a host and a path"},
		"with white space":    {"registry.example/fleet ", "REGISTRY is a host and a path"},
		"a port that is none": {"registry.example:x/fleet", "REGISTRY is a host and a path"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			err := CheckRegistry(tc.registry)
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("CheckRegistry(%q) = %v, want %q", tc.registry, err, tc.err)
			}
		})
	}
}
