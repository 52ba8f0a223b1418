package version

import (
	"testing"

	"golang.org/x/mod/semver"
)

// TestNumber: what is not in this form is refused by Helm, by Go or by registries,
// and one with build metadata cannot be the tag of an image.
func TestNumber(t *testing.T) {
	if semver.Canonical(Tag) != Tag {
		t.Errorf("%s is not a version, or is not spelt in full", Tag)
	}
}
