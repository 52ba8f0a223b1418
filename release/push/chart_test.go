package push

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nationtech/harmony-fleet/release/attest"
	"github.com/nationtech/harmony-fleet/release/chart"
	"github.com/nationtech/harmony-fleet/release/sbom"
)

// pins are images as if they had been pushed.
func pins(digit string) []Pushed {
	digest := v1.Hash{Algorithm: "sha256", Hex: strings.Repeat(digit, 64)}
	return []Pushed{{Image: "fleet-operator", Digest: digest}, {Image: "fleet-callout", Digest: digest}}
}

// TestChart: the chart is there by its tag, signed and with its provenance; a repeat
// sends nothing, and other content under the same version is refused.
func TestChart(t *testing.T) {
	s := newSite(t, true)
	const repository = chart.Folder + "/" + chart.Name
	pushed, err := s.target.Chart(t.Context(), pins("a"))
	s.must(err)
	before := s.content(repository)
	if before[chart.Tag()] != pushed.Digest.String() || pushed.Ref.Name() != s.target.Registry+"/"+repository+"@"+pushed.Digest.String() {
		t.Errorf("Chart() says %+v, and the registry has %v", pushed, before)
	}
	found := s.referrers(repository, pushed.Digest)
	if len(found[attest.SignatureType]) != 1 || len(found[attest.ProvenanceType]) != 1 || len(found[sbom.MediaType]) != 1 {
		t.Fatalf("it is referred to by %v", found)
	}
	s.checkProvenance(found[attest.ProvenanceType][0].document, []string{pushed.Digest.Hex}, []string{found[sbom.MediaType][0].digest.Hex})

	s.allow(0)
	again, err := s.target.Chart(t.Context(), pins("a"))
	s.must(err)
	if diff := cmp.Diff(before, s.content(repository)); diff != "" || again.Digest != pushed.Digest {
		t.Errorf("the second push changed something: %s", diff)
	}
	s.allow(-1)
	if _, err := s.target.Chart(t.Context(), pins("b")); err == nil || !strings.Contains(err.Error(), "is released as sha256:") {
		t.Errorf("with other images it says %v", err)
	}
	if diff := cmp.Diff(before, s.content(repository)); diff != "" {
		t.Errorf("something was pushed: %s", diff)
	}
}
