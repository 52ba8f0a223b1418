package images

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/nationtech/harmony-fleet/release/compile"
	"github.com/nationtech/harmony-fleet/release/sbom"
	"github.com/nationtech/harmony-fleet/release/source"
	"github.com/nationtech/harmony-fleet/release/version"
)

// Build says what to make.
type Build struct {
	Images        []Image  // such as Released
	Architectures []string // such as those of the same name
	Source        source.Source
	Progress      io.Writer // hears what is done, a line at a time
}

// Made is an image of all its platforms.
type Made struct {
	Image
	Index     v1.ImageIndex
	Platforms []Platform // in the order of Index
}

// Platform is the image of one architecture.
type Platform struct {
	Architecture string
	Image        v1.Image
	// SBOM is its software bill of materials, SPDX 2.3 as JSON.
	SBOM []byte
}

// Make builds the images.
func (b Build) Make(ctx context.Context) ([]Made, error) {
	begin := time.Now()
	dir, err := os.MkdirTemp("", "fleet-images-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for programs: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // of a temporary folder; nothing depends on it
	below, err := base()
	if err != nil {
		return nil, err
	}
	trusted, err := b.authoritiesModule()
	if err != nil {
		return nil, err
	}
	made := make([]Made, len(b.Images))
	for _, arch := range b.Architectures {
		programs := filepath.Join(dir, arch)
		work := compile.Build{Root: b.Source.Root, Programs: b.programs(), Architecture: arch, Dir: programs, Progress: b.Progress}
		if err := work.Run(ctx); err != nil {
			return nil, err
		}
		for i, image := range b.Images {
			platform, err := b.assemble(image, ground{below, trusted}, target{arch, programs})
			if err != nil {
				return nil, fmt.Errorf("making the image %s for %s: %w", image.Name, arch, err)
			}
			made[i].Image, made[i].Platforms = image, append(made[i].Platforms, platform)
		}
	}
	for i := range made {
		if made[i].Index, err = b.index(made[i]); err != nil {
			return nil, fmt.Errorf("making the index of %s: %w", made[i].Name, err)
		}
		if err := b.tell(made[i]); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(b.Progress, "built %d images in %s\n", len(made), time.Since(begin).Round(time.Second))
	return made, nil
}

// programs are those of all images, each once.
func (b Build) programs() []compile.Program {
	var all []compile.Program
	for _, i := range b.Images {
		all = append(all, i.Programs...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// ground is the layer below the programs, and the module that its content is from.
type ground struct {
	layer  v1.Layer
	origin debug.Module
}

// target is an architecture and the folder that has its programs.
type target struct{ arch, programs string }

// assemble puts the programs of an image on the base.
func (b Build) assemble(image Image, below ground, t target) (Platform, error) {
	var files []File
	for _, p := range image.Programs {
		content, err := os.ReadFile(filepath.Join(t.programs, p.Name()))
		if err != nil {
			return Platform{}, err
		}
		files = append(files, File{Path: bin + "/" + p.Name(), Executable: true, Content: content})
	}
	layer, err := Layer(files...)
	if err != nil {
		return Platform{}, err
	}
	made, err := Assemble(b.config(image, t.arch), below.layer, layer)
	if err != nil {
		return Platform{}, err
	}
	made = mutate.Annotations(made, b.annotations(image)).(v1.Image)
	digest, err := made.Digest()
	if err != nil {
		return Platform{}, err
	}
	subject := sbom.Image{
		Name: image.Name, Version: version.Number, Description: image.Description, Architecture: t.arch,
		Digest: digest.Hex, Module: compile.Module, Commit: b.Source.Revision(), Created: b.Source.Time,
		Data: []debug.Module{below.origin},
	}
	for i, p := range image.Programs {
		subject.Programs = append(subject.Programs, sbom.Program{Package: string(p), Path: "/" + files[i].Path, Content: files[i].Content})
	}
	bill, err := sbom.Of(subject)
	return Platform{Architecture: t.arch, Image: made, SBOM: bill}, err
}

// Assemble is an image of these layers in OCI's format.
func Assemble(config v1.ConfigFile, layers ...v1.Layer) (v1.Image, error) {
	config.RootFS = v1.RootFS{Type: "layers"}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.ConfigFile(image, &config)
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(image, layers...)
}

func (b Build) config(image Image, arch string) v1.ConfigFile {
	return v1.ConfigFile{
		OS: "linux", Architecture: arch, Created: v1.Time{Time: b.Source.Time}, Author: vendor,
		Config: v1.Config{
			User:       user + ":" + user,
			Entrypoint: []string{"/" + bin + "/" + image.Programs[0].Name()},
			Env:        []string{"PATH=/" + bin},
			WorkingDir: "/",
			Labels:     b.annotations(image),
		},
	}
}

const vendor = "NationTech"

// annotations are OCI's well-known ones, which are an image's labels too: tools of
// a registry look at the former, those of a machine that runs it at the latter.
func (b Build) annotations(image Image) map[string]string {
	const key = "org.opencontainers.image."
	return map[string]string{
		key + "title":         image.Name,
		key + "description":   image.Description,
		key + "version":       version.Number,
		key + "revision":      b.Source.Revision(),
		key + "created":       b.Source.Time.Format(time.RFC3339),
		key + "source":        source.Repository,
		key + "url":           source.Repository,
		key + "documentation": source.Repository + "/tree/main/docs",
		key + "vendor":        vendor,
		key + "licenses":      "Apache-2.0",
	}
}

func (b Build) index(made Made) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range made.Platforms {
		file, err := p.Image.ConfigFile()
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: p.Image, Descriptor: v1.Descriptor{Platform: file.Platform()}})
	}
	return mutate.Annotations(index, b.annotations(made.Image)).(v1.ImageIndex), nil
}

// tell writes the digest and what a device or node has to pull.
func (b Build) tell(made Made) error {
	digest, err := made.Index.Digest()
	if err != nil {
		return fmt.Errorf("reading the digest of %s: %w", made.Name, err)
	}
	fmt.Fprintf(b.Progress, "%s:%s %s\n", made.Name, version.Number, digest)
	for _, p := range made.Platforms {
		size, err := pullSize(p.Image)
		if err != nil {
			return fmt.Errorf("reading the size of %s: %w", made.Name, err)
		}
		fmt.Fprintf(b.Progress, "  linux/%s: %.1f MB compressed\n", p.Architecture, float64(size)/1e6)
	}
	return nil
}

func pullSize(image v1.Image) (int64, error) {
	manifest, err := image.Manifest()
	if err != nil {
		return 0, err
	}
	size := manifest.Config.Size
	for _, layer := range manifest.Layers {
		size += layer.Size
	}
	return size, nil
}
