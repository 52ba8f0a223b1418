package podman

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/smoke/podman"
)

// TestCutOffInTheMaking: a power cut can leave a container in podman's storage of which
// podman itself knows nothing. It does not keep its name from us, and what podman knows
// does.
func TestCutOffInTheMaking(t *testing.T) {
	f := start(t, podman.Options{Name: "leftover"})
	step := f.step(score.Service{Name: "web"})
	f.must(step, reconcile.Pull)
	root, err := f.service.Run(t.Context(), "info", "--format={{.Store.GraphRoot}}")
	if err != nil {
		t.Fatal(err)
	}
	database := filepath.Join(strings.TrimSpace(root), "libpod", "bolt_state.db")
	before, err := os.ReadFile(database)
	if err != nil {
		t.Fatalf("this podman keeps what it knows elsewhere: %v", err)
	}
	f.must(step, reconcile.Create)
	f.service.StopService()
	if err := os.WriteFile(database, before, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.service.StartService(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := f.service.Run(t.Context(), "ps", "--all", "--external", "--format={{.Status}}"); err != nil || strings.TrimSpace(left) != "Storage" {
		t.Fatalf("what is left is %q: %v", left, err)
	}
	f.must(step, reconcile.Create, reconcile.Start)

	foreign := f.step(score.Service{Name: "foreign"})
	name := reconcile.ContainerName(device, foreign.Key, foreign.Service.Digest)
	if _, err := f.service.Run(t.Context(), "create", "--name="+name, f.registry.Ref("hello:1")); err != nil {
		t.Fatal(err)
	}
	if outcome := f.run(foreign, reconcile.Create); outcome.Err == nil || outcome.Err.Reason != reconcile.ReasonNameInUse {
		t.Errorf("with a foreign container of that name: %+v", outcome.Err)
	}
	if _, err := f.service.Run(t.Context(), "container", "exists", name); err != nil {
		t.Errorf("the foreign container is gone: %v", err)
	}
}
