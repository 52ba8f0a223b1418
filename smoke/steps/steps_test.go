package steps

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

// The table has outer steps before those within them, and says which failed.
func TestJournal(t *testing.T) {
	var out strings.Builder
	j := &Journal{Out: &out}
	broken := errors.New("no such thing")
	err := j.Group("outer", func() error {
		if err := j.Step("first", func() error { return nil }); err != nil {
			return err
		}
		return j.Step("second", func() error { return broken })
	})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "second") {
		t.Errorf("the error does not say which step failed why: %v", err)
	}
	want := `^outer +[0-9.]+ s  FAILED\n  first +[0-9.]+ s  ok\n  second +[0-9.]+ s  FAILED\n$`
	if got := j.Table(); !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("Table() =\n%s", got)
	}
	if !strings.Contains(out.String(), "second …\n") {
		t.Errorf("told of its steps: %q", out.String())
	}
}
