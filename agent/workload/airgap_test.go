package workload_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/document"
	"github.com/nationtech/harmony-fleet/smoke/images"
)

// TestWithoutRegistry: a device that reaches no registry runs what podman load brought
// there, and what another registry has in the stead of the one that is named, as
// docs/device.md has it.
func TestWithoutRegistry(t *testing.T) {
	s := newSite(t)
	image, err := images.Hello("1")
	if err != nil {
		t.Fatal(err)
	}
	loaded := name.MustParseReference("registry.example/team/hello:1")
	archive := filepath.Join(t.TempDir(), "hello.tar")
	if err := tarball.WriteToFile(archive, loaded, image); err != nil {
		t.Fatal(err)
	}
	s.run("load", "--input", archive)
	s.reaches(s.apply(score.Service{Name: "app", Image: loaded.Name()}), wire.PhaseSucceeded, reconcile.ReasonRunning)

	text, err := os.ReadFile("../../docs/device.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := document.Blocks(string(text))["Without the internet"]
	if len(blocks) != 2 || !strings.Contains(blocks[1], "[[registry]]") {
		t.Fatalf("the document has %q", blocks)
	}
	mirror := strings.ReplaceAll(blocks[1], "registry.inside.example:5000", s.registry.Addr()) + "insecure = true\n"
	s.podman.StopService() // podman reads it when it starts
	file, err := os.OpenFile(filepath.Join(filepath.Dir(s.podman.CommandLine()), "registries.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString("\n" + mirror); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.podman.StartService(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.reaches(s.apply(score.Service{Name: "app", Image: "registry.example/hello:2"}), wire.PhaseSucceeded, reconcile.ReasonRunning)
}
