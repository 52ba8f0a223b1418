package api_test

import (
	"testing"

	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/release/version"
)

// TestSchemaHash: the operator finds the hash under the name that the generator
// wrote it with, and it is the hash of this very schema.
func TestSchemaHash(t *testing.T) {
	for _, definition := range crds.All() {
		if !crds.Intact(definition) {
			t.Errorf("%s carries hash %q, which is not that of its schema", definition.Name, crds.SchemaHash(definition))
		}
	}
}

// TestVersion: definitions say of which release they are, under the name by which
// they are asked.
func TestVersion(t *testing.T) {
	for _, definition := range crds.All() {
		if got := definition.Annotations[v1alpha1.AnnotationVersion]; got != version.Tag {
			t.Errorf("%s says that it is of %q, want %q", definition.Name, got, version.Tag)
		}
	}
}
