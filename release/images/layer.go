package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
	"golang.org/x/mod/modfile"
)

// File is one file of a layer. All belong to root, are readable by everybody and
// date from 1970, so that a layer's digest follows from their content alone.
type File struct {
	Path       string // without a leading slash
	Executable bool
	Content    []byte
}

// Layer packs files and the folders above them.
func Layer(files ...File) (v1.Layer, error) {
	packed, err := Pack(files...)
	if err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed)), nil }
	layer, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("packing a layer: %w", err)
	}
	return layer, nil
}

// Pack is what a layer is: a compressed archive of the files and the folders above
// them.
func Pack(files ...File) ([]byte, error) {
	var packed bytes.Buffer
	zip, err := gzip.NewWriterLevel(&packed, gzip.DefaultCompression)
	if err != nil {
		return nil, fmt.Errorf("packing an archive: %w", err)
	}
	w := tar.NewWriter(zip)
	for _, folder := range folders(files) {
		if err := put(w, tar.Header{Typeflag: tar.TypeDir, Name: folder + "/", Mode: 0o755}, nil); err != nil {
			return nil, err
		}
	}
	for _, f := range files {
		mode := int64(0o644)
		if f.Executable {
			mode = 0o755
		}
		if err := put(w, tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Mode: mode}, f.Content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("packing an archive: %w", err)
	}
	if err := zip.Close(); err != nil {
		return nil, fmt.Errorf("packing an archive: %w", err)
	}
	return packed.Bytes(), nil
}

// folders are those above the files, each before what it holds.
func folders(files []File) []string {
	var all []string
	for _, f := range files {
		for folder := path.Dir(f.Path); folder != "."; folder = path.Dir(folder) {
			all = append(all, folder)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func put(w *tar.Writer, header tar.Header, content []byte) error {
	header.Size, header.ModTime, header.Format = int64(len(content)), time.Unix(0, 0).UTC(), tar.FormatUSTAR
	if err := w.WriteHeader(&header); err != nil {
		return fmt.Errorf("packing %s: %w", header.Name, err)
	}
	if _, err := w.Write(content); err != nil {
		return fmt.Errorf("packing %s: %w", header.Name, err)
	}
	return nil
}

// base is the layer below the programs.
func base() (v1.Layer, error) {
	return Layer(
		File{Path: "etc/group", Content: []byte("root:x:0:\nfleet:x:" + user + ":\n")},
		File{Path: "etc/passwd", Content: []byte("root:x:0:0:root:/:/sbin/nologin\nfleet:x:" + user + ":" + user + ":fleet:/:/sbin/nologin\n")},
		File{Path: "etc/ssl/certs/ca-certificates.crt", Content: authorities()},
	)
}

// authorities are the certificate authorities that Mozilla trusts, from a Go
// module: go.sum pins their bytes, whereas a distribution's package is whatever the
// building machine happens to have. The few that Mozilla trusts under a condition
// are left out, since a file of certificates cannot say the condition.
func authorities() []byte {
	var file strings.Builder
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			file.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}))
		}
	}
	return []byte(file.String())
}

// authoritiesModule is the Go module that the authorities are from, in the version
// that the tree requires.
func (b Build) authoritiesModule() (debug.Module, error) {
	const path = "golang.org/x/crypto/x509roots/fallback"
	content, err := os.ReadFile(filepath.Join(b.Source.Root, "go.mod"))
	if err != nil {
		return debug.Module{}, fmt.Errorf("reading the version of %s: %w", path, err)
	}
	file, err := modfile.ParseLax("go.mod", content, nil)
	if err != nil {
		return debug.Module{}, fmt.Errorf("reading the version of %s: %w", path, err)
	}
	for _, r := range file.Require {
		if r.Mod.Path == path {
			return debug.Module{Path: path, Version: r.Mod.Version}, nil
		}
	}
	return debug.Module{}, errors.New("reading the version of " + path + ": go.mod does not require it")
}
