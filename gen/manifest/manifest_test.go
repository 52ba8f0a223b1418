package manifest_test

import (
	"strings"
	"testing"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/gen/manifest"
)

// TestEverySubjectIsConfigured: the accounts have what package wire says, and
// nobody may do more than his role.
func TestEverySubjectIsConfigured(t *testing.T) {
	files, err := manifest.Files()
	if err != nil {
		t.Fatal(err)
	}
	text := string(files[manifest.AccountsPath])
	quoted := 0
	has := func(subject string) {
		quoted++
		if !strings.Contains(text, `"`+subject+`"`) {
			t.Errorf("%s is not in the configuration", subject)
		}
	}
	for _, p := range []wire.Permissions{wire.OperatorPermissions(), wire.AdminPermissions()} {
		for _, subject := range append(append([]string{}, p.Publish...), p.Subscribe...) {
			has(subject)
		}
	}
	for _, a := range wire.Accounts() {
		for _, e := range append(append([]wire.Exchange{}, a.Exports...), a.Imports...) {
			has(e.Subject)
		}
	}
	if n := strings.Count(text, `"`) / 2; n != quoted {
		t.Errorf("the configuration has %d subjects, want %d", n, quoted)
	}
}

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
