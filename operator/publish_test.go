package operator_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

// TestPublish: the operator tells, with no more rights than it says that it needs,
// what devices are to be told when they join; a ConfigMap that somebody changed it
// mends at its next start, and one that is right it leaves alone.
func TestPublish(t *testing.T) {
	w := newWorld(t)
	ca := filepath.Join(t.TempDir(), "ca.crt")
	with := func(r *running) {
		r.config.Roster.Enabled = true
		r.config.Publish = config.PublishSection{ConfigMap: config.PublishedName, NATSURL: "tls://nats.example.com:4222", CAFile: ca}
	}
	found := &corev1.ConfigMap{}
	name := client.ObjectKey{Namespace: operatorNamespace, Name: config.PublishedName}
	t.Cleanup(func() { w.must(w.api.Delete(context.Background(), found)) })
	want := map[string]string{
		"trustedKeys": strings.Join(w.broker.TrustedKeys(), "\n"), "natsURL": "tls://nats.example.com:4222", "ca.crt": "PEM", "policies": "cluster",
		"operatorVersion": "test",
	}
	published := func() error {
		if err := w.api.Get(t.Context(), name, found); err != nil {
			return err
		}
		if !maps.Equal(found.Data, want) {
			return fmt.Errorf("it has %q", found.Data)
		}
		return nil
	}

	r := w.startConverged(with)
	r.waitLog("caFile")
	w.must(os.WriteFile(ca, []byte("PEM"), 0o600))
	w.eventually("the ConfigMap is there once the file is", published)
	r.stop()

	r = w.startConverged(with)
	w.eventually("it looks at the ConfigMap", func() error {
		if len(r.traffic.find("GET", config.PublishedName)) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	r.stop()
	if writes := r.traffic.find("write", config.PublishedName); len(writes) > 0 {
		t.Errorf("it was written as it was: %v", writes)
	}
	found.Data["trustedKeys"] = "O"
	w.must(w.api.Update(t.Context(), found))
	w.startConverged(with)
	w.eventually("what somebody changed is mended", published)
}
