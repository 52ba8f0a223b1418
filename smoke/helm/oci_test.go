package helm_test

import (
	"bytes"
	"crypto/elliptic"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	helmregistry "helm.sh/helm/v3/pkg/registry"

	"github.com/nationtech/harmony-fleet/release/attest"
	"github.com/nationtech/harmony-fleet/release/chart"
	"github.com/nationtech/harmony-fleet/release/push"
	"github.com/nationtech/harmony-fleet/release/source"
	"github.com/nationtech/harmony-fleet/release/version"
	"github.com/nationtech/harmony-fleet/smoke/registry"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestChartFromARegistry: Helm pulls what a release pushes, and what it renders runs
// the images by the digests that were pushed with it; a tag, which would not count, is
// refused.
func TestChartFromARegistry(t *testing.T) {
	r, err := registry.Start()
	must(t, err)
	t.Cleanup(func() { must(t, r.Stop()) })
	private, _, err := cryptoutils.GeneratePEMEncodedECDSAKeyPair(elliptic.P256(), nil)
	must(t, err)
	file := filepath.Join(t.TempDir(), "key.pem")
	must(t, os.WriteFile(file, private, 0o600))
	key, err := attest.ReadKey(file)
	must(t, err)
	tree, err := source.Read(t.Context(), ".")
	must(t, err)
	operator, callout := v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("1", 64)}, v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("2", 64)}
	target := push.Target{Registry: r.Ref("team/fleet"), Key: key, Builder: "https://example.com", Source: tree, Progress: io.Discard}
	pushed, err := target.Chart(t.Context(), []push.Pushed{{Image: "fleet-operator", Digest: operator}, {Image: "fleet-callout", Digest: callout}})
	must(t, err)

	client, err := helmregistry.NewClient(helmregistry.ClientOptPlainHTTP(), helmregistry.ClientOptWriter(io.Discard))
	must(t, err)
	pulled, err := client.Pull(target.Registry + "/charts/" + chart.Name + ":" + chart.Tag())
	must(t, err)
	if pulled.Manifest.Digest != pushed.Digest.String() || pulled.Chart.Meta.Version != version.Number {
		t.Errorf("it pulled %s, version %s, want %s", pulled.Manifest.Digest, pulled.Chart.Meta.Version, pushed.Digest)
	}
	loaded, err := loader.LoadArchive(bytes.NewReader(pulled.Chart.Data))
	must(t, err)
	must(t, loaded.Validate())

	render := action.NewInstall(&action.Configuration{})
	render.ClientOnly, render.DryRun, render.ReleaseName, render.Namespace = true, true, "rel", "ns"
	render.KubeVersion, err = chartutil.ParseKubeVersion("1.37.0")
	must(t, err)
	if _, err := render.RunWithContext(t.Context(), loaded, map[string]any{"image": map[string]any{"tag": "other"}}); err == nil || !strings.Contains(err.Error(), "tag") {
		t.Errorf("a tag beside the digests: %v", err)
	}
	rendered, err := render.RunWithContext(t.Context(), loaded, nil)
	must(t, err)
	for image, digest := range map[string]v1.Hash{"fleet-operator": operator, "fleet-callout": callout} {
		if want := `image: "` + target.Registry + "/" + image + "@" + digest.String() + `"`; !strings.Contains(rendered.Manifest, want) {
			t.Errorf("what is rendered lacks %s", want)
		}
		if !strings.Contains(loaded.Metadata.Annotations["artifacthub.io/images"], digest.String()) {
			t.Errorf("Artifact Hub is told of %s", loaded.Metadata.Annotations["artifacthub.io/images"])
		}
	}
}
