package images

import (
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"

	"github.com/nationtech/harmony-fleet/release/artifact"
	"github.com/nationtech/harmony-fleet/release/sbom"
	"github.com/nationtech/harmony-fleet/release/version"
)

// WriteLayout writes the image into the folder dir as an OCI image layout, in
// place of one that was there. The image is the first entry and bears the version
// as its name; after it come the bills of materials that refer to its platforms.
func (m Made) WriteLayout(dir string) error {
	if err := m.writeLayout(dir); err != nil {
		return fmt.Errorf("writing the image %s to %s: %w", m.Name, dir, err)
	}
	return nil
}

func (m Made) writeLayout(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	files, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	name := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": version.Number})
	if err := files.AppendIndex(m.Index, name); err != nil {
		return err
	}
	for _, p := range m.Platforms {
		bill, err := p.Bill()
		if err != nil {
			return err
		}
		if err := files.AppendImage(bill); err != nil {
			return err
		}
	}
	return nil
}

// Bill is the platform's bill of materials as an artifact that refers to it.
func (p Platform) Bill() (v1.Image, error) { return Bill(p.SBOM, p.Image) }

// Bill is a bill of materials as an artifact that refers to what it is of.
func Bill(document []byte, of partial.Describable) (v1.Image, error) {
	return artifact.Artifact{Type: sbom.MediaType, Blobs: []artifact.Blob{{MediaType: sbom.MediaType, Content: document}}}.About(of)
}
