package chart_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nationtech/harmony-fleet/release/chart"
	"github.com/nationtech/harmony-fleet/release/source"
)

var digest = v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0a", 32)}

func pinned(names ...string) chart.Images {
	p := chart.Images{Registry: "registry.example/team", Digests: map[string]v1.Hash{}}
	for _, name := range names {
		p.Digests[name] = digest
	}
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// unpacked is what the chart's archive holds.
func unpacked(t *testing.T, made v1.Image) map[string]string {
	t.Helper()
	layers, err := made.Layers()
	must(t, err)
	packed, err := layers[0].Compressed()
	must(t, err)
	defer packed.Close()
	plain, err := gzip.NewReader(packed)
	must(t, err)
	files := map[string]string{}
	for r := tar.NewReader(plain); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		must(t, err)
		content, err := io.ReadAll(r)
		must(t, err)
		if header.Typeflag == tar.TypeReg {
			files[strings.TrimPrefix(header.Name, chart.Name+"/")] = string(content)
		}
	}
}

// TestMake: the archive is the tree's chart but for what is pinned, and the same
// bytes each time.
func TestMake(t *testing.T) {
	tree := source.Source{Root: filepath.Join("..", ".."), Commit: "c"}
	made, err := chart.Make(tree, pinned("fleet-operator", "fleet-callout"))
	must(t, err)
	again, err := chart.Make(tree, pinned("fleet-operator", "fleet-callout"))
	must(t, err)
	one, err := made.Digest()
	must(t, err)
	if other, err := again.Digest(); err != nil || one != other {
		t.Errorf("it is %s and then %s, %v", one, other, err)
	}
	for _, image := range []string{"registry.example/team/fleet-operator:", "nats:", "natsio/jetstream-controller:"} {
		if !strings.Contains(string(made.SBOM), `"name": "`+image) {
			t.Errorf("the bill of materials lacks %s:\n%s", image, made.SBOM)
		}
	}
	if !bytes.Equal(made.SBOM, again.SBOM) {
		t.Error("the bill of materials is another each time")
	}
	files := unpacked(t, made)
	for name, content := range files {
		there, err := os.ReadFile(filepath.Join(tree.Root, chart.Folder, chart.Name, name))
		must(t, err)
		if name == "Chart.yaml" {
			if !strings.Contains(content, "image: registry.example/team/fleet-callout:") || !strings.Contains(content, "image: nats:") {
				t.Errorf("Chart.yaml does not name the images:\n%s", content)
			}
			continue
		}
		want := string(there)
		if name == "values.yaml" {
			for old, pinned := range map[string]string{
				"registry: registry.example/harmony-fleet": `registry: "registry.example/team"`,
				`operator: ""`: `operator: "` + digest.String() + `"`, `callout: ""`: `callout: "` + digest.String() + `"`,
			} {
				want = strings.Replace(want, old, pinned, 1)
			}
		}
		if diff := cmp.Diff(want, content); diff != "" {
			t.Errorf("%s: (- tree, + archive) %s", name, diff)
		}
	}
	if len(files) < 10 {
		t.Errorf("it holds %d files alone", len(files))
	}
}

// TestBadCharts: what cannot be pinned is no release.
func TestBadCharts(t *testing.T) {
	tests := map[string]struct {
		files  map[string]string
		pinned chart.Images
		err    string
	}{
		"no chart":                {nil, pinned(), "reading the chart"},
		"an image that is new":    {map[string]string{"values.yaml": "image: {registry: a, digests: {operator: b}}"}, pinned("fleet-new"), "it has no image.digests.new"},
		"a digest that is a list": {map[string]string{"values.yaml": "image: {registry: a, digests: {operator: []}}"}, pinned("fleet-operator"), "image.digests.operator is no text"},
		"of another version": {
			map[string]string{"values.yaml": "image: {registry: a}", "Chart.yaml": "{name: harmony-fleet, version: 0.0.0, annotations: {}}"}, pinned(),
			"not that of this version",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, chart.Folder, chart.Name)
			if tc.files != nil {
				must(t, os.MkdirAll(dir, 0o700))
			}
			for name, content := range tc.files {
				must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
			}
			if _, err := chart.Make(source.Source{Root: root}, tc.pinned); err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got %v, want %q", err, tc.err)
			}
		})
	}
}
