package images

import (
	"io"
	"runtime"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

func digest(t *testing.T, image v1.Image, err error) v1.Hash {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

func TestHelloIsReproducible(t *testing.T) {
	first, err := Hello("v1")
	one := digest(t, first, err)
	second, err := Hello("v1")
	if two := digest(t, second, err); one != two {
		t.Errorf("the same version has digests %s and %s", one, two)
	}
	other, err := Hello("v2")
	if three := digest(t, other, err); one == three {
		t.Error("two versions have the same digest")
	}
}

// A runtime finds the program where the configuration says.
func TestPause(t *testing.T) {
	image, err := Pause()
	if err != nil {
		t.Fatal(err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"/pause"}; !slices.Equal(file.Config.Entrypoint, want) {
		t.Errorf("the entrypoint is %v, want %v", file.Config.Entrypoint, want)
	}
}

func TestArchitectures(t *testing.T) {
	tests := map[string]struct {
		reason string
		make   func(string) (v1.Image, error)
		here   bool
	}{
		"hello":      {"runs on this machine", Hello, true},
		"wrong arch": {"does not run on this machine", WrongArch, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			image, err := tc.make("v1")
			if err != nil {
				t.Fatal(err)
			}
			file, err := image.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			if (file.Architecture == runtime.GOARCH) != tc.here {
				t.Errorf("%s: architecture %s on %s", tc.reason, file.Architecture, runtime.GOARCH)
			}
			flat := mutate.Extract(image)
			defer flat.Close()
			if size, err := io.Copy(io.Discard, flat); err != nil || size < 1<<20 {
				t.Errorf("the image holds %d bytes, %v", size, err)
			}
		})
	}
}
