// Package artifact makes OCI artifacts: documents about an image that lie beside
// it in a registry and refer to it, so that whoever has the image's digest finds
// them, and documents that stand for themselves. It knows nothing of what they say,
// and never talks to a registry.
package artifact

import (
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Artifact is documents in one manifest.
type Artifact struct {
	// Type is the media type that people look for; "" where Config's says it.
	Type        string
	Annotations map[string]string
	// Config is empty, as OCI has it, for most.
	Config Blob
	Blobs  []Blob
}

// Blob is a document.
type Blob struct {
	MediaType   string
	Annotations map[string]string
	Content     []byte
}

// empty is OCI's configuration of an artifact that has none.
var empty = Blob{MediaType: "application/vnd.oci.empty.v1+json", Content: []byte("{}")}

// About is the manifest that says this of the subject, which is an image or an
// index. It is the same bytes each time.
func (a Artifact) About(subject partial.Describable) (v1.Image, error) {
	about, err := partial.Descriptor(subject)
	if err != nil {
		return nil, fmt.Errorf("reading what %s is about: %w", a.Type, err)
	}
	return a.manifest(&v1.Descriptor{MediaType: about.MediaType, Size: about.Size, Digest: about.Digest})
}

// Alone is the manifest of documents that are about nothing else.
func (a Artifact) Alone() (v1.Image, error) { return a.manifest(nil) }

func (a Artifact) manifest(subject *v1.Descriptor) (v1.Image, error) {
	configuration := a.Config
	if configuration.MediaType == "" {
		configuration = empty
	}
	config, err := partial.Descriptor(static.NewLayer(configuration.Content, types.MediaType(configuration.MediaType)))
	if err != nil {
		return nil, fmt.Errorf("making %s: %w", a.Type, err)
	}
	manifest := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: a.Type, Annotations: a.Annotations, Config: *config, Subject: subject,
	}
	made := document{config: configuration.Content, blobs: map[v1.Hash]v1.Layer{}}
	for _, b := range a.Blobs {
		blob := static.NewLayer(b.Content, types.MediaType(b.MediaType))
		descriptor, err := partial.Descriptor(blob)
		if err != nil {
			return nil, fmt.Errorf("making %s: %w", a.Type, err)
		}
		descriptor.Annotations = b.Annotations
		manifest.Layers = append(manifest.Layers, *descriptor)
		made.blobs[descriptor.Digest] = blob
	}
	if made.manifest, err = json.Marshal(manifest); err != nil {
		return nil, fmt.Errorf("making %s: %w", a.Type, err)
	}
	return partial.CompressedToImage(made)
}

// document is a manifest with what it names.
type document struct {
	manifest, config []byte
	blobs            map[v1.Hash]v1.Layer
}

// RawManifest is part of partial.CompressedImageCore, as are the others.
func (d document) RawManifest() ([]byte, error) { return d.manifest, nil }

// RawConfigFile is the configuration.
func (d document) RawConfigFile() ([]byte, error) { return d.config, nil }

// MediaType is that of the manifest.
func (d document) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// LayerByDigest finds a blob.
func (d document) LayerByDigest(digest v1.Hash) (partial.CompressedLayer, error) {
	blob, found := d.blobs[digest]
	if !found {
		return nil, fmt.Errorf("there is no blob %s", digest)
	}
	return blob, nil
}
