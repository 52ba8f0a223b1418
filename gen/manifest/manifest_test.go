package manifest_test

import (
	"strings"
	"testing"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/gen/manifest"
)

// TestEverySubjectIsDocumented: each subject that a role has is in the document,
// and each line of a table has a reason.
func TestEverySubjectIsDocumented(t *testing.T) {
	files, err := manifest.Files()
	if err != nil {
		t.Fatal(err)
	}
	text := string(files[manifest.Path])
	for _, p := range []wire.Permissions{wire.DevicePermissions("DEVICE"), wire.OperatorPermissions(), wire.AdminPermissions()} {
		for _, subject := range append(append([]string{}, p.Publish...), p.Subscribe...) {
			if !strings.Contains(text, "| `"+subject+"` | ") {
				t.Errorf("%s is not in the document", subject)
			}
		}
	}
	for line := range strings.Lines(text) {
		if strings.Contains(line, "|  |") {
			t.Errorf("no reason: %s", line)
		}
	}
}
