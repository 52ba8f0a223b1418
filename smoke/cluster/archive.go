package cluster

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
)

// archived returns the path of a tar archive of the image: the path itself, or that
// of one made from a folder, which the returned function removes.
func archived(path string) (archive string, remove func(), err error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", nil, fmt.Errorf("reading the image: %w", err)
	}
	if !info.IsDir() {
		return path, func() {}, nil
	}
	file, err := os.CreateTemp("", "fleet-image-*.tar")
	if err != nil {
		return "", nil, fmt.Errorf("making an archive of the image %s: %w", path, err)
	}
	remove = func() { _ = os.Remove(file.Name()) }
	w := tar.NewWriter(file)
	if err := errors.Join(w.AddFS(os.DirFS(path)), w.Close(), file.Close()); err != nil {
		remove()
		return "", nil, fmt.Errorf("making an archive of the image %s: %w", path, err)
	}
	return file.Name(), remove, nil
}
