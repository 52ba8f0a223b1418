// Package images makes the container images that tests and the demo run, from
// Go source and without a container runtime. The same version is the same bytes
// on every host. It never pushes: that is the registry's part.
package images

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nationtech/harmony-fleet/smoke/tools"
)

//go:embed hello/main.go
var helloSource []byte

// Port is where the hello program serves unless PORT says otherwise.
const Port = 8080

// buildTimeout bounds the first compilation, which includes net/http.
const buildTimeout = 5 * time.Minute

// Hello is an image of the hello program (see its folder) for this machine,
// which answers version. Its entrypoint is /hello; commands are its flags.
func Hello(version string) (v1.Image, error) { return hello(version, runtime.GOARCH) }

// WrongArch is the hello image for an architecture that this machine is not: it
// can be pulled, and its program cannot be executed.
func WrongArch(version string) (v1.Image, error) {
	if runtime.GOARCH == "arm64" {
		return hello(version, "amd64")
	}
	return hello(version, "arm64")
}

func hello(version, arch string) (v1.Image, error) {
	binary, err := compile(arch)
	if err != nil {
		return nil, err
	}
	layer, err := layerOf("hello", binary)
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, fmt.Errorf("adding the layer of hello %s: %w", version, err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of hello %s: %w", version, err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", arch
	file.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	file.Config = v1.Config{
		Entrypoint:   []string{"/hello"},
		Env:          []string{"VERSION=" + version},
		ExposedPorts: map[string]struct{}{fmt.Sprintf("%d/tcp", Port): {}},
	}
	image, err = mutate.ConfigFile(image, file)
	if err != nil {
		return nil, fmt.Errorf("configuring hello %s: %w", version, err)
	}
	return image, nil
}

// compile builds the hello program, statically linked, or finds it in the cache
// under the digest of its source and the compiler's version.
func compile(arch string) ([]byte, error) {
	digest := sha256.Sum256(slices.Concat(helloSource, []byte(runtime.Version())))
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	dir, err := tools.Cached(ctx, fmt.Sprintf("hello-%x-%s", digest[:6], arch), func(dir string) error {
		for name, content := range map[string][]byte{"main.go": helloSource, "go.mod": []byte("module hello\n\ngo 1.26\n")} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				return fmt.Errorf("writing the source: %w", err)
			}
		}
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", "hello", ".")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS=linux", "GOARCH="+arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, out)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("compiling hello for %s: %w", arch, err)
	}
	binary, err := os.ReadFile(filepath.Join(dir, "hello"))
	if err != nil {
		return nil, fmt.Errorf("reading hello for %s: %w", arch, err)
	}
	return binary, nil
}

// layerOf is a layer with one executable file, dated 1970 so that its digest
// follows from the content alone.
func layerOf(name string, binary []byte) (v1.Layer, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	header := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(binary)), ModTime: time.Unix(0, 0).UTC(), Format: tar.FormatUSTAR}
	if err := w.WriteHeader(header); err != nil {
		return nil, fmt.Errorf("writing layer %s: %w", name, err)
	}
	if _, err := w.Write(binary); err != nil {
		return nil, fmt.Errorf("writing layer %s: %w", name, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("writing layer %s: %w", name, err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive.Bytes())), nil
	})
	if err != nil {
		return nil, fmt.Errorf("making layer %s: %w", name, err)
	}
	return layer, nil
}
