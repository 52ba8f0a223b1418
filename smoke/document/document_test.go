package document_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/smoke/document"
)

func TestBlocks(t *testing.T) {
	const text = "# Title\n\n    zero\n\n## One\n\nText `x`:\n\n    a \\\n      b\n    c\n\nMore.\n\n    d\n\n## Two\n\n* no block\n\n## Three\n    e"
	want := map[string][]string{"": {"zero\n"}, "One": {"a \\\n  b\nc\n", "d\n"}, "Three": {"e"}}
	if diff := cmp.Diff(want, document.Blocks(text)); diff != "" {
		t.Errorf("(- want, + got) %s", diff)
	}
}
