package artifact

import (
	"io"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestAbout: OCI's form of an artifact, and what went in comes out.
func TestAbout(t *testing.T) {
	subject, err := random.Image(64, 1)
	must(t, err)
	a := Artifact{
		Type: "application/x", Annotations: map[string]string{"a": "b"},
		Blobs: []Blob{{MediaType: "text/plain", Content: []byte("hello"), Annotations: map[string]string{"c": "d"}}},
	}
	made, err := a.About(subject)
	must(t, err)
	manifest, err := made.Manifest()
	must(t, err)
	digest, err := subject.Digest()
	must(t, err)
	size, err := subject.Size()
	must(t, err)
	if manifest.Subject.Digest != digest || manifest.Subject.Size != size || manifest.ArtifactType != "application/x" || manifest.Annotations["a"] != "b" {
		t.Errorf("the manifest is %+v", manifest)
	}
	// The digest is that of {}, which OCI's specification gives.
	if c := manifest.Config; string(c.MediaType) != empty.MediaType || c.Size != 2 || c.Digest.Hex != "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" {
		t.Errorf("the configuration is %+v", c)
	}
	if l := manifest.Layers; len(l) != 1 || l[0].MediaType != "text/plain" || l[0].Annotations["c"] != "d" {
		t.Fatalf("the layers are %+v", l)
	}
	blob, err := made.LayerByDigest(manifest.Layers[0].Digest)
	must(t, err)
	content, err := blob.Compressed()
	must(t, err)
	if data, err := io.ReadAll(content); err != nil || string(data) != "hello" {
		t.Errorf("the blob is %q, %v", data, err)
	}
	if _, err := made.LayerByDigest(v1.Hash{Algorithm: "sha256", Hex: "00"}); err == nil {
		t.Error("a blob that is not there is found")
	}
}
