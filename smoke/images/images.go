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

	"github.com/nationtech/harmony-fleet/release/compile"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

//go:embed hello/main.go
var helloSource []byte

//go:embed pause/main.go
var pauseSource []byte

// Port is where the hello program serves unless PORT says otherwise.
const Port = 8080

// buildTimeout bounds the first compilation, which includes net/http.
const buildTimeout = 5 * time.Minute

// Hello is an image of the hello program (see its folder) for this machine,
// which answers version. Its entrypoint is /hello; commands are its flags.
func Hello(version string) (v1.Image, error) { return HelloFor(version, runtime.GOARCH) }

// WrongArch is the hello image for an architecture that this machine is not: it
// can be pulled, and its program cannot be executed.
func WrongArch(version string) (v1.Image, error) {
	if runtime.GOARCH == "arm64" {
		return HelloFor(version, "amd64")
	}
	return HelloFor(version, "arm64")
}

// HelloFor is the hello image for an architecture.
func HelloFor(version, arch string) (v1.Image, error) {
	return program{name: "hello", source: helloSource, arch: arch}.image(v1.Config{
		Env:          []string{"VERSION=" + version},
		ExposedPorts: map[string]struct{}{fmt.Sprintf("%d/tcp", Port): {}},
	})
}

// Pause is an image of the pause program (see its folder) for this machine.
func Pause() (v1.Image, error) { return pause().image(v1.Config{}) }

// PauseProgram is the path of the pause program on this machine.
func PauseProgram() (string, error) { return pause().compile() }

func pause() program { return program{name: "pause", source: pauseSource, arch: runtime.GOARCH} }

// program is one that an image consists of.
type program struct {
	name   string
	source []byte
	arch   string
}

// image holds the program as its entrypoint, with else the given configuration.
func (p program) image(config v1.Config) (v1.Image, error) {
	path, err := p.compile()
	if err != nil {
		return nil, err
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading %s for %s: %w", p.name, p.arch, err)
	}
	layer, err := layerOf(p.name, binary)
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, fmt.Errorf("adding the layer of %s: %w", p.name, err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of %s: %w", p.name, err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", p.arch
	file.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	file.Config = config
	file.Config.Entrypoint = []string{"/" + p.name}
	image, err = mutate.ConfigFile(image, file)
	if err != nil {
		return nil, fmt.Errorf("configuring %s: %w", p.name, err)
	}
	return image, nil
}

// compile builds the program, statically linked, or finds it in the cache under the
// digest of its source and the compiler's version.
func (p program) compile() (path string, err error) {
	digest := sha256.Sum256(slices.Concat(p.source, []byte(runtime.Version())))
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	dir, err := tools.Cached(ctx, fmt.Sprintf("%s-%x-%s", p.name, digest[:6], p.arch), func(dir string) error {
		for name, content := range map[string][]byte{"main.go": p.source, "go.mod": []byte("module " + p.name + "\n\ngo 1.26\n")} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				return fmt.Errorf("writing the source: %w", err)
			}
		}
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", compile.NoDebug, "-ldflags=-s -w -buildid=", "-o", p.name, ".")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS=linux", "GOARCH="+p.arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, out)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("compiling %s for %s: %w", p.name, p.arch, err)
	}
	return filepath.Join(dir, p.name), nil
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
