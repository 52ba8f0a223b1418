package sbom

import (
	"bytes"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// program is one with dependencies, which a test's own program does not know of
// itself.
var program = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "sbom-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // of a temporary folder
	file := filepath.Join(dir, "release")
	if out, err := exec.Command("go", "build", "-o", file, "../cmd/release").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	return os.ReadFile(file)
})

// image has one program twice.
func image(t *testing.T) (Image, *debug.BuildInfo) {
	t.Helper()
	content, err := program()
	must(t, err)
	info, err := buildinfo.Read(bytes.NewReader(content))
	must(t, err)
	if len(info.Deps) < 10 {
		t.Fatalf("the program links %d modules: too few to say anything", len(info.Deps))
	}
	return Image{
		Name: "app", Version: "1.2.3", Architecture: "arm64", Digest: "abcd", Module: "example.com/Team/app", Commit: "c0ffee",
		Created:  time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Programs: []Program{{"cmd/a", "/bin/a", content}, {"cmd/b", "/bin/b", content}},
		Data:     []debug.Module{{Path: "example.com/data", Version: "v1.0.0+incompatible", Sum: "h1:x"}},
	}, info
}

func read(t *testing.T, of Image) (*spdx.Document, []byte) {
	t.Helper()
	data, err := Of(of)
	must(t, err)
	document, err := json.Read(bytes.NewReader(data))
	must(t, err)
	return document, data
}

// TestOf: the library reads it back, and everything linked is in it, once.
func TestOf(t *testing.T) {
	of, info := image(t)
	document, first := read(t, of)
	if _, second := read(t, of); !bytes.Equal(first, second) {
		t.Error("two documents of one image differ")
	}
	if document.SPDXVersion != "SPDX-2.3" || document.DataLicense != "CC0-1.0" || document.CreationInfo.Created != "2026-01-02T03:04:05Z" {
		t.Errorf("the document is %+v of %+v", document, document.CreationInfo)
	}
	locators := map[string]string{}
	allowed := regexp.MustCompile(`^[a-zA-Z0-9.-]+$`)
	seen := map[common.ElementID]bool{}
	for _, p := range document.Packages {
		if seen[p.PackageSPDXIdentifier] || !allowed.MatchString(string(p.PackageSPDXIdentifier)) {
			t.Errorf("the identifier %q is there twice, or not allowed", p.PackageSPDXIdentifier)
		}
		seen[p.PackageSPDXIdentifier] = true
		locators[p.PackageName] = p.PackageExternalReferences[0].Locator
	}
	for _, linked := range info.Deps {
		if _, found := locators[linked.Path]; !found {
			t.Errorf("it lacks %s", linked.Path)
		}
	}
	for name, want := range map[string]string{
		"app":              "pkg:oci/app@sha256%3Aabcd?arch=arm64&tag=1.2.3",
		"a":                "pkg:golang/example.com/Team/app@v1.2.3#cmd/a",
		"example.com/data": "pkg:golang/example.com/data@v1.0.0%2Bincompatible",
	} {
		if got := locators[name]; got != want {
			t.Errorf("%s is located by %q, want %q", name, got, want)
		}
	}
	if want := len(info.Deps) + 5; len(document.Packages) != want { // image, two programs, stdlib, data
		t.Errorf("there are %d packages, want %d", len(document.Packages), want)
	}
}

// TestRelationships: from the document everything can be reached.
func TestRelationships(t *testing.T) {
	of, info := image(t)
	document, _ := read(t, of)
	count := map[string]int{}
	reached := []common.ElementID{"DOCUMENT"}
	for _, r := range document.Relationships {
		count[r.Relationship]++
		if !slices.Contains(reached, r.RefA.ElementRefID) {
			t.Errorf("%s %s %s comes before its beginning", r.RefA.ElementRefID, r.Relationship, r.RefB.ElementRefID)
		}
		reached = append(reached, r.RefB.ElementRefID)
	}
	if count["DESCRIBES"] != 1 || count["CONTAINS"] != 3 || count["DEPENDS_ON"] != 2*(1+len(info.Deps)) {
		t.Errorf("relationships: %v", count)
	}
}

func TestOfNoProgram(t *testing.T) {
	of, _ := image(t)
	of.Programs[1].Content = []byte("#!/bin/sh\n")
	if _, err := Of(of); err == nil {
		t.Error("a script has no bill of materials")
	}
}
