// Package repository_test holds the whole repository against its own rules: who
// may import whom, and the limits of the house style.
package repository_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/nationtech/harmony-fleet/"

// listed is what the go tool tells of one package.
type listed struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var packages []listed
	for dec := json.NewDecoder(out); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return packages
}

// rules reads imports.txt: folders of this module with what they may import, and
// libraries with who may import them.
func rules(t *testing.T) (folders, libraries map[string][]string) {
	t.Helper()
	file, err := os.Open("imports.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	folders, libraries = map[string][]string{}, map[string][]string{}
	for scan := bufio.NewScanner(file); scan.Scan(); {
		fields := strings.Fields(scan.Text())
		if len(fields) == 0 || fields[0] == "#" {
			continue
		}
		table := folders
		if strings.Contains(fields[0], ".") {
			table = libraries
		}
		table[fields[0]] = fields[1:]
	}
	return folders, libraries
}

func below(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }

func belowAny(path string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return below(path, f) })
}

// TestImportGraph compares each package's imports with the table. Tests may
// import smoke, which holds the real parts that they run against.
func TestImportGraph(t *testing.T) {
	folders, libraries := rules(t)
	seen := map[string]bool{}
	for _, p := range list(t, "./...") {
		here, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours {
			continue // the root, which holds tests alone
		}
		top, _, _ := strings.Cut(here, "/")
		allowed, known := folders[top]
		if !known {
			t.Errorf("%s: imports.txt does not know the folder %s", here, top)
		}
		seen[top] = true
		for _, imported := range p.Imports {
			if there, ours := strings.CutPrefix(imported, module); ours && !belowAny(there, allowed) {
				t.Errorf("%s imports %s; %s may import only %v", here, there, top, allowed)
			}
			for library, importers := range libraries {
				if below(imported, library) && !belowAny(here, importers) && top != "apis" {
					t.Errorf("%s imports %s; only %v may", here, imported, importers)
				}
			}
		}
	}
	for folder := range folders {
		if !seen[folder] {
			t.Errorf("imports.txt names the folder %s, which has no package", folder)
		}
	}
}

// TestContractIsLight: what both sides share carries next to nothing. In and below crds
// alone are the types of the definitions that it embeds.
func TestContractIsLight(t *testing.T) {
	for _, p := range list(t, "./apis/...") {
		here := strings.TrimPrefix(p.ImportPath, module)
		for _, imported := range p.Imports {
			standard := !strings.Contains(strings.Split(imported, "/")[0], ".")
			machinery := below(imported, "k8s.io/apimachinery") && (below(here, "apis/fleet") || here == "apis/crds")
			definitions := below(imported, "k8s.io/apiextensions-apiserver/pkg/apis") && below(here, "apis/crds")
			keys := below(imported, "github.com/nats-io/nkeys")
			if !standard && !machinery && !definitions && !keys && !strings.HasPrefix(imported, module+"apis/") {
				t.Errorf("%s imports %s", here, imported)
			}
		}
	}
}

// TestAgentIsSmall: nothing of Kubernetes and no server gets into the agent, not
// even through a library.
func TestAgentIsSmall(t *testing.T) {
	for _, p := range list(t, "-deps", "./agent/cmd/fleet-agent") {
		for _, heavy := range []string{"k8s.io", "sigs.k8s.io", "github.com/nats-io/nats-server/v2", module + "operator", module + "smoke"} {
			if below(p.ImportPath, heavy) {
				t.Errorf("the agent links %s", p.ImportPath)
			}
		}
	}
}
