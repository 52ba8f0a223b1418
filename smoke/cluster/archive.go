package cluster

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// archiveLayout writes an OCI layout as a tar archive in which its only image has the
// full name: layouts have a tag alone.
func archiveLayout(w io.Writer, folder, name string) error {
	index, err := namedIndex(filepath.Join(folder, "index.json"), name)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(w)
	files := os.DirFS(folder)
	err = fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		if path == "index.json" {
			content = index
		}
		if err := archive.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return err
		}
		_, err = archive.Write(content)
		return err
	})
	if err = errors.Join(err, archive.Close()); err != nil {
		return fmt.Errorf("making an archive of the layout %s: %w", folder, err)
	}
	return nil
}

// namedIndex is the index of a layout, in which its image has the name.
func namedIndex(file, name string) ([]byte, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the index of a layout: %w", err)
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(content, &index); err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	if len(index.Manifests) != 1 {
		return nil, fmt.Errorf("%s has %d images, want one that is to be called %s", file, len(index.Manifests), name)
	}
	index.Manifests[0].Annotations = map[string]string{"org.opencontainers.image.ref.name": name}
	return json.Marshal(index)
}
