package operator_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// signingKey makes a key of its own in a file.
func (w *world) signingKey() (file, public string) {
	w.Helper()
	seed, err := wire.NewSigningKey()
	w.must(err)
	signer, err := wire.NewSigner(seed)
	w.must(err)
	file = filepath.Join(w.TempDir(), "seed")
	w.must(os.WriteFile(file, append(seed, '\n'), 0o600))
	return file, signer.Keys()[0]
}

// awaitSigned waits until the stored manifest of a device is signed by exactly
// these keys, and returns it.
func (w *world) awaitSigned(id wire.DeviceID, keys ...string) (m wire.SignedManifest) {
	w.Helper()
	w.eventually(fmt.Sprintf("%s is signed by %v", id, keys), func() (err error) {
		if m, err = wire.DecodeSignedManifest(w.get(wire.DesiredState, wire.DeviceKey(id))); err != nil {
			return err
		}
		if got := strings.Join(m.Signers(), ","); got != strings.Join(keys, ",") || strings.Join(m.Keys, ",") != got {
			return fmt.Errorf("signed by %s, naming %v", got, m.Keys)
		}
		for _, key := range keys {
			if err := m.Verify(id, []string{key}); err != nil {
				return err
			}
		}
		return nil
	})
	return m
}

// TestSigningKeyRotation: with another set of keys every manifest is signed anew,
// and nothing else is written.
func TestSigningKeyRotation(t *testing.T) {
	w := newWorld(t)
	oldFile, oldKey := w.signingKey()
	newFile, newKey := w.signingKey()
	with := func(files ...string) func(*running) {
		return func(r *running) { r.config.Signing.KeyFiles = files }
	}
	r := w.startConverged(with(oldFile))
	r.waitLog(oldKey)
	w.announce("pi-1", map[string]string{"group": "a"})
	d := deployment(w.namespace(), "web", "a")
	w.must(w.api.Create(t.Context(), d))
	first := w.awaitSigned("pi-1", oldKey)
	r.stop()
	for _, step := range []struct {
		files, keys []string
	}{
		{[]string{oldFile, newFile}, []string{oldKey, newKey}},
		{[]string{newFile}, []string{newKey}},
	} {
		r = w.startConverged(with(step.files...))
		next := w.awaitSigned("pi-1", step.keys...)
		if next.Generation != first.Generation+1 || len(next.Deployments) != 1 {
			t.Errorf("generation %d after %d, %d deployments", next.Generation, first.Generation, len(next.Deployments))
		}
		first = next
		r.stop()
	}
	w.startConverged(with(newFile))
	w.never("writes without a cause", time.Second, func() error {
		if m := w.awaitSigned("pi-1", newKey); m.Generation != first.Generation {
			return fmt.Errorf("generation %d", m.Generation)
		}
		return nil
	})
}

// TestManifestsAreRenewed: before one expires it is signed anew, by an audit that
// finds no difference in that.
func TestManifestsAreRenewed(t *testing.T) {
	w := newWorld(t)
	r := w.startConverged(func(r *running) { r.config.AuditInterval = config.Duration(20 * time.Millisecond) })
	w.announce("pi-1", map[string]string{"group": "a"})
	d := deployment(w.namespace(), "web", "a")
	w.must(w.api.Create(t.Context(), d))
	w.awaitDesired("pi-1", d)
	first := w.manifest("pi-1")
	validity := time.Duration(r.config.Signing.Validity)
	if left := time.Until(first.NotAfter); left < validity/2 || left > validity {
		t.Errorf("valid for %s, want between half of %s and all of it", left, validity)
	}
	for i := range 5 { // of which some fall into an audit
		r.skew.Add(int64(validity / 2))
		next := first
		w.eventually("renewed", func() error {
			next = w.manifest("pi-1")
			if next.Generation != first.Generation+1 || !next.NotAfter.Equal(first.NotAfter.Add(validity/2)) {
				return fmt.Errorf("renewal %d: generation %d, valid until %s", i, next.Generation, next.NotAfter)
			}
			return nil
		})
		first = next
	}
	if n := r.metric("fleet_audit_differences_total", ""); n != 0 {
		t.Errorf("%v differences were found", n)
	}
}

// TestForgedManifestIsReplaced: whoever else may write to the bucket does not get
// far.
func TestForgedManifestIsReplaced(t *testing.T) {
	w := newWorld(t)
	w.startConverged(func(r *running) { r.config.AuditInterval = config.Duration(200 * time.Millisecond) })
	w.announce("pi-1", map[string]string{"group": "a"})
	d := deployment(w.namespace(), "web", "a")
	w.must(w.api.Create(t.Context(), d))
	w.awaitDesired("pi-1", d)
	signed := string(w.get(wire.DesiredState, "pi-1"))
	w.put(wire.DesiredState, "pi-1", []byte(strings.Replace(signed, `"notAfter":"20`, `"notAfter":"21`, 1)))
	w.awaitSigned("pi-1", w.broker.TrustedKeys()...)
	w.awaitDesired("pi-1", d)
}

// TestUnreadableSigningKey: the operator does not start, and says which file.
func TestUnreadableSigningKey(t *testing.T) {
	w := newWorld(t)
	public := filepath.Join(t.TempDir(), "public")
	w.must(os.WriteFile(public, []byte(w.broker.TrustedKeys()[0]), 0o600))
	for _, file := range []string{public, filepath.Join(t.TempDir(), "missing")} {
		r := w.start(func(r *running) { r.config.Signing.KeyFiles = []string{file} })
		select {
		case <-r.done:
		case <-time.After(patience):
			t.Fatal("the operator goes on without a key")
		}
		if r.err == nil || !strings.Contains(r.err.Error(), file) {
			t.Errorf("got error %v, want one that names %s", r.err, file)
		}
	}
}
