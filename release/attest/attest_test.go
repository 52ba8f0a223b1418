package attest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func written(t *testing.T, content []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key.pem")
	must(t, os.WriteFile(file, content, 0o600))
	return file
}

// pem is a private key in PKCS#8.
func pem(t *testing.T, private crypto.PrivateKey) []byte {
	t.Helper()
	data, err := cryptoutils.MarshalPrivateKeyToPEM(private)
	must(t, err)
	return data
}

func ecdsaKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return private
}

// TestKeys: sigstore's own library accepts what each kind of key signs, and the
// same content gets the same signature.
func TestKeys(t *testing.T) {
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	encrypted, _, err := cryptoutils.GeneratePEMEncodedECDSAKeyPair(elliptic.P256(), func(bool) ([]byte, error) { return []byte("open sesame"), nil })
	must(t, err)
	t.Setenv(PasswordVariable, "open sesame")
	for kind, data := range map[string][]byte{"ECDSA": pem(t, ecdsaKey(t)), "Ed25519": pem(t, edwards), "as cosign keeps it": encrypted} {
		t.Run(kind, func(t *testing.T) {
			key, err := ReadKey(written(t, data))
			must(t, err)
			one, err := key.Sign(t.Context(), []byte("content"))
			must(t, err)
			two, err := key.Sign(t.Context(), []byte("content"))
			must(t, err)
			if string(one) != string(two) {
				t.Error("two signatures of the same content differ")
			}
			verifier, err := signature.LoadVerifier(key.Public(), crypto.SHA256)
			must(t, err)
			must(t, verifier.VerifySignature(strings.NewReader(string(one)), strings.NewReader("content")))
			if verifier.VerifySignature(strings.NewReader(string(one)), strings.NewReader("other content")) == nil {
				t.Error("the signature fits other content")
			}
		})
	}
}

func TestReadKeyRefuses(t *testing.T) {
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	encrypted, _, err := cryptoutils.GeneratePEMEncodedECDSAKeyPair(elliptic.P256(), func(bool) ([]byte, error) { return []byte("open sesame"), nil })
	must(t, err)
	public, err := cryptoutils.MarshalPublicKeyToPEM(large.Public())
	must(t, err)
	t.Setenv(PasswordVariable, "wrong")
	for reason, tc := range map[string]struct{ file, err string }{
		"there is no such file":  {filepath.Join(t.TempDir(), "none"), "reading the signing key: open "},
		"it is not PEM":          {written(t, []byte("seed")), "a private key in PEM"},
		"it is the public half":  {written(t, public), "a private key in PEM"},
		"it is RSA":              {written(t, pem(t, large)), "use ECDSA or Ed25519"},
		"the password is wrong":  {written(t, encrypted), "in " + PasswordVariable},
		"the file holds nothing": {written(t, nil), "a private key in PEM"},
	} {
		if _, err := ReadKey(tc.file); err == nil || !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: got %v, want %q", reason, err, tc.err)
		}
	}
}

// TestSignatureNamesTheTag: the claim is of this digest and this tag, and the
// manifest is about the subject and in the place where cosign looks.
func TestSignatureNamesTheTag(t *testing.T) {
	key, err := ReadKey(written(t, pem(t, ecdsaKey(t))))
	must(t, err)
	subject, err := random.Image(64, 1)
	must(t, err)
	digest, err := subject.Digest()
	must(t, err)
	ref, err := name.NewTag("registry.example/team/app:1.2.3")
	must(t, err)
	made, err := key.Signature(t.Context(), subject, ref)
	must(t, err)
	manifest, err := made.Manifest()
	must(t, err)
	if manifest.Subject.Digest != digest || manifest.ArtifactType != SignatureType || SignatureTag(digest) != "sha256-"+digest.Hex+".sig" {
		t.Errorf("the manifest is %+v, its tag %s", manifest, SignatureTag(digest))
	}
	layers, err := made.Layers()
	must(t, err)
	content, err := layers[0].Compressed()
	must(t, err)
	var claim struct {
		Critical struct {
			Identity struct {
				Reference string `json:"docker-reference"`
			}
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			}
		}
	}
	must(t, json.NewDecoder(content).Decode(&claim))
	if claim.Critical.Identity.Reference != ref.Name() || claim.Critical.Image.Digest != digest.String() {
		t.Errorf("the claim is %+v", claim)
	}
}

// TestProvenance: the same build gets the same statement, and one that says nothing
// is not made.
func TestProvenance(t *testing.T) {
	key, err := ReadKey(written(t, pem(t, ecdsaKey(t))))
	must(t, err)
	subject, err := random.Image(64, 1)
	must(t, err)
	whole := Origin{Commit: strings.Repeat("c0ffee00", 5), Version: "1.2.3", GoVersion: "go1", Builder: "https://example.com/b", Subjects: []Named{{"app", subject}}}
	one, err := key.Provenance(t.Context(), subject, whole)
	must(t, err)
	two, err := key.Provenance(t.Context(), subject, whole)
	must(t, err)
	if same(t, one) != same(t, two) {
		t.Error("two statements of one build differ")
	}
	for reason, change := range map[string]func(*Origin){
		"no builder":            func(o *Origin) { o.Builder = "" },
		"no subject":            func(o *Origin) { o.Subjects = nil },
		"a commit that is none": func(o *Origin) { o.Commit = "main" },
	} {
		part := whole
		change(&part)
		if _, err := key.Provenance(t.Context(), subject, part); err == nil {
			t.Errorf("%s: there is a statement", reason)
		}
	}
}

func same(t *testing.T, image v1.Image) [32]byte {
	t.Helper()
	raw, err := image.RawManifest()
	must(t, err)
	return sha256.Sum256(raw)
}
