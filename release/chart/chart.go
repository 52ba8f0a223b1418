// Package chart packs the tree's Helm chart for a registry, as `helm push` would,
// with the images of a release pinned by their digests. It needs no Helm, changes
// nothing in the tree, and never talks to a registry.
package chart

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.yaml.in/yaml/v3"

	"github.com/nationtech/harmony-fleet/release/artifact"
	"github.com/nationtech/harmony-fleet/release/images"
	"github.com/nationtech/harmony-fleet/release/sbom"
	"github.com/nationtech/harmony-fleet/release/source"
	"github.com/nationtech/harmony-fleet/release/version"
)

// Name of the chart, and of its repository below Folder.
const Name = "harmony-fleet"

// Folder of the tree, and of a registry, that the chart is in. In a registry it
// keeps the chart apart from images.
const Folder = "charts"

// The media types of Helm.
const (
	configType  = "application/vnd.cncf.helm.config.v1+json"
	contentType = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
)

// Tag is the version as tags spell it: they have no plus sign.
func Tag() string { return strings.ReplaceAll(version.Number, "+", "_") }

// Images are what the chart is to run.
type Images struct {
	// Registry is the first part of their references.
	Registry string
	// Digests by the images' names.
	Digests map[string]v1.Hash
}

// Made is the chart as an artifact.
type Made struct {
	v1.Image
	// SBOM is its software bill of materials, SPDX 2.3 as JSON: the images that it runs.
	SBOM []byte
}

// Make packs the chart of the tree, pinned to these images. The same tree and the
// same images give the same bytes.
func Make(tree source.Source, pinned Images) (Made, error) {
	files, err := read(filepath.Join(tree.Root, Folder, Name))
	if err != nil {
		return Made{}, fmt.Errorf("reading the chart: %w", err)
	}
	runs, err := pinned.runs(files["values.yaml"])
	if err != nil {
		return Made{}, err
	}
	made, err := pinned.pack(files, runs, tree)
	if err != nil {
		return Made{}, err
	}
	digest, err := made.Digest()
	if err != nil {
		return Made{}, fmt.Errorf("reading the digest of the chart: %w", err)
	}
	subject := sbom.Image{
		Name: Name, Version: version.Number, Description: "The Helm chart of Harmony Fleet", Digest: digest.Hex,
		Module: strings.TrimPrefix(source.Repository, "https://"), Commit: tree.Revision(), Created: tree.Time,
	}
	var references []string
	for _, image := range runs {
		references = append(references, image.Image)
	}
	bill, err := sbom.OfChart(subject, references)
	return Made{made, bill}, err
}

// pack makes the artifact of the chart's files.
func (p Images) pack(files map[string][]byte, runs []run, tree source.Source) (v1.Image, error) {
	var err error
	if files["values.yaml"], err = p.values(files["values.yaml"]); err != nil {
		return nil, fmt.Errorf("pinning images in the chart's values.yaml: %w", err)
	}
	meta, err := metadata(files["Chart.yaml"], runs)
	if err != nil {
		return nil, fmt.Errorf("naming images in Chart.yaml: %w", err)
	}
	config, err := json.Marshal(meta)
	if err != nil {
		return nil, fmt.Errorf("encoding Chart.yaml: %w", err)
	}
	if files["Chart.yaml"], err = yaml.Marshal(meta); err != nil {
		return nil, fmt.Errorf("encoding Chart.yaml: %w", err)
	}
	var packed []images.File
	for _, name := range slices.Sorted(maps.Keys(files)) {
		packed = append(packed, images.File{Path: path.Join(Name, name), Content: files[name]})
	}
	archive, err := images.Pack(packed...)
	if err != nil {
		return nil, err
	}
	return artifact.Artifact{
		Config:      artifact.Blob{MediaType: configType, Content: config},
		Annotations: annotations(meta, tree),
		Blobs:       []artifact.Blob{{MediaType: contentType, Content: archive}},
	}.Alone()
}

// annotations are OCI's, which registries show.
func annotations(meta map[string]any, tree source.Source) map[string]string {
	const key = "org.opencontainers.image."
	return map[string]string{
		key + "title":       Name,
		key + "description": fmt.Sprint(meta["description"]),
		key + "version":     version.Number,
		key + "revision":    tree.Revision(),
		key + "created":     tree.Time.Format(time.RFC3339),
		key + "source":      source.Repository,
		key + "url":         source.Repository,
	}
}

// read is every file below the folder, by its path there.
func read(dir string) (map[string][]byte, error) {
	files, root := map[string][]byte{}, os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		files[name], err = fs.ReadFile(root, name)
		return err
	})
	return files, err
}

// values writes registry and digests into values.yaml, and leaves everything else
// as it is, comments above all.
func (p Images) values(text []byte) ([]byte, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	pins := map[string]string{"registry": p.Registry}
	for name, digest := range p.Digests {
		pins["digests."+strings.TrimPrefix(name, "fleet-")] = digest.String()
	}
	lines := strings.SplitAfter(string(text), "\n")
	for _, at := range slices.Sorted(maps.Keys(pins)) {
		value, err := find(&document, "image."+at)
		if err != nil {
			return nil, err
		}
		line := &lines[value.Line-1]
		*line = (*line)[:value.Column-1] + fmt.Sprintf("%q\n", pins[at])
	}
	return []byte(strings.Join(lines, "")), nil
}

// find is the text at a path of keys with dots between.
func find(document *yaml.Node, at string) (*yaml.Node, error) {
	here := document.Content[0]
	for key := range strings.SplitSeq(at, ".") {
		i := slices.IndexFunc(here.Content, func(n *yaml.Node) bool { return n.Value == key })
		if here.Kind != yaml.MappingNode || i < 0 {
			return nil, fmt.Errorf("it has no %s", at)
		}
		here = here.Content[i+1]
	}
	if here.Kind != yaml.ScalarNode {
		return nil, fmt.Errorf("%s is no text", at)
	}
	return here, nil
}

// run is an image that the chart runs by its values, as Artifact Hub lists it.
type run struct {
	Name  string `yaml:"name"`
	Image string `yaml:"image"`
}

// runs are ours by their digests, and others' as values.yaml has them.
func (p Images) runs(text []byte) (all []run, err error) {
	for _, name := range slices.Sorted(maps.Keys(p.Digests)) {
		all = append(all, run{name, p.Registry + "/" + name + ":" + version.Number + "@" + p.Digests[name].String()})
	}
	var values struct {
		NATS, NACK struct{ Image string }
	}
	if err := yaml.Unmarshal(text, &values); err != nil {
		return nil, fmt.Errorf("reading images in the chart's values.yaml: %w", err)
	}
	return append(all, run{"nats-server", values.NATS.Image}, run{"jetstream-controller", values.NACK.Image}), nil
}

// metadata is Chart.yaml with what Artifact Hub scans.
func metadata(text []byte, runs []run) (map[string]any, error) {
	var meta map[string]any
	if err := yaml.Unmarshal(text, &meta); err != nil {
		return nil, err
	}
	annotations, known := meta["annotations"].(map[string]any)
	if !known || meta["name"] != Name || meta["version"] != version.Number {
		return nil, errors.New("it is not that of this version; run `make generate`")
	}
	list, err := yaml.Marshal(runs)
	annotations["artifacthub.io/images"] = string(list)
	return meta, err
}
