package images

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nationtech/harmony-fleet/release/version"
	"github.com/nationtech/harmony-fleet/smoke/podman"
)

// TestPodmanRuns: a container runtime takes an image from the layout and runs it as
// a cluster that is strict would: nothing can be written, no rights, a user that
// the image does not know, and a program that is named without its folder.
func TestPodmanRuns(t *testing.T) {
	service, err := podman.Start(t.Context(), podman.Options{Name: "images", Progress: t.Output()})
	must(t, err)
	t.Cleanup(func() {
		if err := service.Stop(); err != nil {
			t.Error(err)
		}
	})
	// Podman names images from a layout for its path, which must be lower case.
	folder, err := os.MkdirTemp("", "fleet-layouts-")
	must(t, err)
	defer os.RemoveAll(folder) //nolint:errcheck // of a temporary folder
	for _, made := range images(t) {
		dir := filepath.Join(folder, made.Name)
		must(t, made.WriteLayout(dir))
		id, err := service.Run(t.Context(), "pull", "--quiet", "oci:"+dir+":"+version.Number)
		must(t, err)
		id = strings.TrimSpace(id)
		strict := []string{"run", "--rm", "--network=none", "--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges"}
		for reason, args := range map[string][]string{
			"as it is":          {id},
			"as any other user": {"--user=1000720000:0", id},
			"by name":           {"--entrypoint=" + made.Programs[0].Name(), id},
		} {
			args = append(append(strict[:len(strict):len(strict)], args...), "--version")
			if out, err := service.Run(t.Context(), args...); err != nil || !strings.Contains(out, version.Tag) {
				t.Errorf("%s %s: it says %q, %v", made.Name, reason, out, err)
			}
		}
		user, err := service.Run(t.Context(), "image", "inspect", "--format={{.User}}", id)
		if err != nil || strings.TrimSpace(user) != "65532:65532" {
			t.Errorf("%s runs as %q, %v", made.Name, user, err)
		}
	}
}
