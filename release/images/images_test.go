package images

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/x509"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/nationtech/harmony-fleet/release/sbom"
	"github.com/nationtech/harmony-fleet/release/source"
	"github.com/nationtech/harmony-fleet/release/version"
)

// released builds all images of this tree once.
var released = sync.OnceValues(func() ([]Made, error) { return build(".") })

func build(dir string) ([]Made, error) {
	tree, err := source.Read(context.Background(), ".")
	if err != nil {
		return nil, err
	}
	if dir != "." {
		tree.Root = dir
	}
	return Build{Images: Released, Architectures: Architectures, Source: tree, Progress: os.Stderr}.Make(context.Background())
}

func images(t *testing.T) []Made {
	t.Helper()
	made, err := released()
	must(t, err)
	return made
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestReproducible builds the same tree in another folder.
func TestReproducible(t *testing.T) {
	first := images(t)
	second, err := build(copyOfTree(t))
	must(t, err)
	for i := range first {
		one, err := first[i].Index.Digest()
		must(t, err)
		two, err := second[i].Index.Digest()
		must(t, err)
		if one != two {
			t.Errorf("%s is %s here and %s elsewhere", first[i].Name, one, two)
		}
		for p := range first[i].Platforms {
			if !bytes.Equal(first[i].Platforms[p].SBOM, second[i].Platforms[p].SBOM) {
				t.Errorf("%s has two bills of materials", first[i].Name)
			}
		}
	}
}

// copyOfTree is this tree with its changes and without what git ignores.
func copyOfTree(t *testing.T) string {
	t.Helper()
	tree, err := source.Read(t.Context(), ".")
	must(t, err)
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "go.mod", "go.sum", "*.go", "apis", "operator")
	cmd.Dir = tree.Root
	list, err := cmd.Output()
	must(t, err)
	to := t.TempDir()
	for _, name := range strings.Split(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join(tree.Root, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted and not committed yet
		}
		must(t, err)
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o700))
		must(t, os.WriteFile(filepath.Join(to, name), content, 0o600))
	}
	return to
}

// files are those of a flattened image.
func files(t *testing.T, image v1.Image) map[string]tar.Header {
	t.Helper()
	flat := mutate.Extract(image)
	defer flat.Close()
	all := map[string]tar.Header{}
	for r := tar.NewReader(flat); ; {
		header, err := r.Next()
		if err == io.EOF {
			return all
		}
		must(t, err)
		if header.Typeflag == tar.TypeReg {
			all[header.Name] = *header
		}
	}
}

// file is the content of one.
func file(t *testing.T, image v1.Image, name string) []byte {
	t.Helper()
	flat := mutate.Extract(image)
	defer flat.Close()
	for r := tar.NewReader(flat); ; {
		header, err := r.Next()
		must(t, err)
		if header.Name == name {
			content, err := io.ReadAll(r)
			must(t, err)
			return content
		}
	}
}

// TestImages: there is nothing in an image but what its table entry says, it runs
// as nobody, and both architectures are there under one name.
func TestImages(t *testing.T) {
	for _, made := range images(t) {
		t.Run(made.Name, func(t *testing.T) {
			index, err := made.Index.IndexManifest()
			must(t, err)
			var platforms []string
			for _, m := range index.Manifests {
				platforms = append(platforms, m.Platform.String())
			}
			if want := []string{"linux/amd64", "linux/arm64"}; !slices.Equal(platforms, want) {
				t.Errorf("the index has %v, want %v", platforms, want)
			}
			for _, p := range made.Platforms {
				checkPlatform(t, made, p)
			}
		})
	}
}

func checkPlatform(t *testing.T, made Made, p Platform) {
	t.Helper()
	config, err := p.Image.ConfigFile()
	must(t, err)
	name := made.Programs[0].Name()
	want := v1.Config{User: "65532:65532", Entrypoint: []string{"/usr/local/bin/" + name}, Env: []string{"PATH=/usr/local/bin"}, WorkingDir: "/", Labels: config.Config.Labels}
	if diff := cmp.Diff(want, config.Config); diff != "" {
		t.Errorf("linux/%s (- want, + got):\n%s", p.Architecture, diff)
	}
	manifest, err := p.Image.Manifest()
	must(t, err)
	if diff := cmp.Diff(config.Config.Labels, manifest.Annotations); diff != "" {
		t.Errorf("labels and annotations differ:\n%s", diff)
	}
	for key, want := range map[string]string{"title": made.Name, "version": version.Number, "licenses": "Apache-2.0"} {
		if got := manifest.Annotations["org.opencontainers.image."+key]; got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	var there []string
	for file, header := range files(t, p.Image) {
		there = append(there, file)
		if header.Uid != 0 || header.Mode&0o022 != 0 {
			t.Errorf("%s can be written by the program: %o, owner %d", file, header.Mode, header.Uid)
		}
	}
	slices.Sort(there)
	only := []string{"etc/group", "etc/passwd", "etc/ssl/certs/ca-certificates.crt"}
	for _, program := range made.Programs {
		only = append(only, "usr/local/bin/"+program.Name())
		checkProgram(t, p, file(t, p.Image, "usr/local/bin/"+program.Name()))
	}
	slices.Sort(only)
	if diff := cmp.Diff(only, there); diff != "" {
		t.Errorf("linux/%s has other files (- want, + got):\n%s", p.Architecture, diff)
	}
}

// checkProgram: it is of the architecture, needs no library and, where it can be
// run, says the version.
func checkProgram(t *testing.T, p Platform, content []byte) {
	t.Helper()
	program, err := elf.NewFile(bytes.NewReader(content))
	must(t, err)
	if machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[p.Architecture]; program.Machine != machine {
		t.Errorf("linux/%s has a program for %s", p.Architecture, program.Machine)
	}
	for _, part := range program.Progs {
		if part.Type == elf.PT_INTERP {
			t.Errorf("linux/%s has a program that needs a loader", p.Architecture)
		}
	}
	if p.Architecture != runtime.GOARCH {
		return
	}
	binary := filepath.Join(t.TempDir(), "program")
	must(t, os.WriteFile(binary, content, 0o700))
	out, err := exec.Command(binary, "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), version.Tag) {
		t.Errorf("--version says %q, %v", out, err)
	}
}

// TestAuthorities: a program finds the file and can use all of it.
func TestAuthorities(t *testing.T) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authorities()) {
		t.Fatal("no certificate can be read")
	}
	if n := strings.Count(string(authorities()), "BEGIN CERTIFICATE"); n < 100 {
		t.Errorf("there are %d authorities; Mozilla has some 140", n)
	}
}

// TestBill: the bill has the image, its programs, what they link and where the
// authorities are from.
func TestBill(t *testing.T) {
	for _, made := range images(t) {
		for _, p := range made.Platforms {
			for _, name := range []string{made.Name, "stdlib", "github.com/nats-io/nats.go", "golang.org/x/crypto/x509roots/fallback"} {
				if !strings.Contains(string(p.SBOM), `"name": "`+name+`"`) {
					t.Errorf("the bill of %s for %s lacks %s", made.Name, p.Architecture, name)
				}
			}
		}
	}
}

// TestLayout: what is written is what was made, also over an older layout.
func TestLayout(t *testing.T) {
	made := images(t)[1]
	dir := filepath.Join(t.TempDir(), "below", made.Name)
	must(t, made.WriteLayout(dir))
	must(t, os.WriteFile(filepath.Join(dir, "old"), nil, 0o600))
	must(t, made.WriteLayout(dir))
	if _, err := os.Stat(filepath.Join(dir, "old")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was there stays: %v", err)
	}
	path, err := layout.FromPath(dir)
	must(t, err)
	top, err := path.ImageIndex()
	must(t, err)
	list, err := top.IndexManifest()
	must(t, err)
	digest, err := made.Index.Digest()
	must(t, err)
	written, err := top.ImageIndex(digest)
	must(t, err)
	must(t, validate.Index(written))
	if first := list.Manifests[0]; first.Digest != digest || first.Annotations["org.opencontainers.image.ref.name"] != version.Number {
		t.Errorf("the first entry is %+v, want %s named %s", first, digest, version.Number)
	}
	for i, p := range made.Platforms {
		image, err := path.Image(list.Manifests[i+1].Digest)
		must(t, err)
		raw, err := image.RawManifest()
		must(t, err)
		var bill v1.Manifest
		must(t, json.Unmarshal(raw, &bill))
		subject, err := p.Image.Digest()
		must(t, err)
		if bill.ArtifactType != sbom.MediaType || bill.Subject == nil || bill.Subject.Digest != subject {
			t.Errorf("the bill for %s is %s", p.Architecture, raw)
		}
		content, err := path.Bytes(bill.Layers[0].Digest)
		if err != nil || !bytes.Equal(content, p.SBOM) {
			t.Errorf("the bill for %s has other content, %v", p.Architecture, err)
		}
	}
}

func TestLayerFolders(t *testing.T) {
	got := folders([]File{{Path: "usr/local/bin/b"}, {Path: "usr/local/bin/a"}, {Path: "etc/x"}, {Path: "top"}})
	if want := []string{"etc", "usr", "usr/local", "usr/local/bin"}; !slices.Equal(got, want) {
		t.Errorf("folders() = %v, want %v", got, want)
	}
}
