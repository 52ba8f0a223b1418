package v1alpha1

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
	"pgregory.net/rapid"
)

// TestLabelsAreThoseOfKubernetes compares the rule with Kubernetes' own, and has what is
// proposed instead be good.
func TestLabelsAreThoseOfKubernetes(t *testing.T) {
	text := rapid.OneOf(
		rapid.StringMatching(`[a-zA-Z0-9._ /-]{0,8}`),
		rapid.StringMatching(`([a-z0-9-]{1,3}\.){0,3}[a-z0-9-]{0,3}/[a-zA-Z0-9._-]{0,4}`),
		rapid.StringMatching(`[ab.-]{60,66}`), rapid.StringMatching(`[ab.]{250,256}/a`), rapid.String(),
	)
	rapid.Check(t, func(t *rapid.T) {
		key, value := text.Draw(t, "key"), text.Draw(t, "value")
		want := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...)
		err := validLabel(key, value)
		if (err == nil) != (len(want) == 0) {
			t.Fatalf("%q=%q: %v, and Kubernetes says %q", key, value, err, want)
		}
		if err == nil {
			return
		}
		_, proposed, found := strings.Cut(err.Error(), "; write \"")
		proposed = strings.TrimSuffix(proposed, `"`)
		if found && len(validation.IsValidLabelValue(proposed)) > 0 && len(validation.IsQualifiedName(proposed)) > 0 {
			t.Fatalf("%q=%q: %q is no better", key, value, proposed)
		}
	})
}
