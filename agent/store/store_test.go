package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/agent/images"
	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

func open(t *testing.T) (*store.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func desired(generation uint64, scores ...string) store.Desired {
	d := store.Desired{Generation: generation, Deployments: map[wire.DeploymentID]store.Workload{}}
	for i, text := range scores {
		id := wire.DeploymentID{Namespace: "shop", Name: string(rune('a' + i))}
		d.Deployments[id] = store.Workload{Revision: 3, Digest: score.DigestOf([]byte(text)), Score: []byte(text)}
	}
	return d
}

func TestDesiredSurvives(t *testing.T) {
	s, dir := open(t)
	if got, err := s.LoadDesired(); err != nil || !cmp.Equal(store.Desired{}, got) {
		t.Fatalf("before the first: %+v, %v", got, err)
	}
	// Bytes that no JSON encoder would keep as they are.
	want := desired(7, `{"podmanV0": {"a<b>":1}}`, "\xff\x00")
	h, err := hold.New(time.Now(), time.Hour, wire.HeldByCluster)
	if err != nil {
		t.Fatal(err)
	}
	want.Hold = h
	for _, d := range []store.Desired{desired(6, "old"), want} {
		if err := s.SaveDesired(d); err != nil {
			t.Fatal(err)
		}
	}
	again, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := again.LoadDesired()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("changed on the way (- want, + got):\n%s", diff)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "desired.json"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want mode %o", path, info.Mode(), err, mode)
		}
	}
}

func TestNothingWantedIsNotNothingKnown(t *testing.T) {
	s, _ := open(t)
	if err := s.SaveDesired(desired(9)); err != nil {
		t.Fatal(err)
	}
	if got, err := s.LoadDesired(); err != nil || got.Generation != 9 || len(got.Deployments) != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestDamagedDesiredIsKeptAside(t *testing.T) {
	for reason, content := range map[string]string{
		"empty":            "",
		"cut":              `{"generation":7,"deploy`,
		"no generation":    `{"deployments":{}}`,
		"no deployments":   `{"generation":7}`,
		"odd name":         `{"generation":7,"deployments":{"a":{}}}`,
		"another's digest": `{"generation":7,"deployments":{"a.b":{"digest":"` + string(score.DigestOf([]byte("x"))) + `","score":"eQ=="}}}`,
	} {
		t.Run(reason, func(t *testing.T) {
			s, dir := open(t)
			path := filepath.Join(dir, "desired.json")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := s.LoadDesired(); !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), path) {
				t.Errorf("got error %v, want ErrDamaged with %s", err, path)
			}
			if kept, err := os.ReadFile(path + ".damaged"); err != nil || string(kept) != content {
				t.Errorf("kept %q, %v", kept, err)
			}
			if _, err := s.LoadDesired(); err != nil {
				t.Errorf("the second time: %v", err)
			}
		})
	}
}

// A full disk costs the new state and never the old one.
func TestFullDisk(t *testing.T) {
	s, dir := open(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatalf("mounting a small disk, which needs root: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	want := desired(1, "small")
	if err := s.SaveDesired(want); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveDesired(desired(2, strings.Repeat("x", 128<<10))); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got error %v, want no space left", err)
	}
	if got, err := s.LoadDesired(); err != nil || !cmp.Equal(want, got) {
		t.Errorf("the old state: %+v, %v", got, err)
	}
	if err := s.SaveDesired(desired(3, "small again")); err != nil {
		t.Errorf("after the failure: %v", err)
	}
}

func TestReport(t *testing.T) {
	s, dir := open(t)
	if got, err := s.LoadReport(); err != nil || !cmp.Equal(store.Report{}, got) {
		t.Fatalf("before the first: %+v, %v", got, err)
	}
	want := store.Report{
		Device: "pi-1", Written: time.Unix(1000, 0).UTC(), Generation: 4,
		Broker:      store.BrokerReport{Since: time.Unix(900, 0).UTC(), Error: "refused"},
		Deployments: []store.DeploymentReport{{Namespace: "shop", Name: "a", State: wire.DeviceState{Phase: wire.PhasePending, Reason: "Pulling"}}},
	}
	if err := s.SaveReport(want); err != nil {
		t.Fatal(err)
	}
	got, err := s.LoadReport()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("changed on the way (- want, + got):\n%s", diff)
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.LoadReport(); err == nil || !strings.Contains(err.Error(), "report.json") {
		t.Errorf("a damaged report: %v", err)
	}
}

func TestSecrets(t *testing.T) {
	s, dir := open(t)
	if got, err := s.LoadSecrets(); err != nil || got != nil {
		t.Fatalf("before the first: %+v, %v", got, err)
	}
	want := []store.SecretInUse{{
		Ref:     secret.Ref{Deployment: wire.DeploymentID{Namespace: "shop", Name: "web"}, Name: "db"},
		Version: "3 2026-11-25T04:46:42.123456789Z", Keys: []string{"password", "user"},
	}}
	if err := s.SaveSecrets(want); err != nil {
		t.Fatal(err)
	}
	got, err := s.LoadSecrets()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("changed on the way (- want, + got):\n%s", diff)
	}
	path := filepath.Join(dir, "secrets.json")
	for _, content := range []string{"", "{}", `[{"secret":"db","version":"1","keys":["a"]}]`, `[{"secret":"shop/web/db","keys":["a"]}]`, `[{"secret":"shop/web/db","version":"1"}]`} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.LoadSecrets(); !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v", content, err)
		}
		if kept, err := os.ReadFile(path + ".damaged"); err != nil || string(kept) != content {
			t.Errorf("kept %q, %v", kept, err)
		}
	}
	if err := s.SaveSecrets(nil); err != nil {
		t.Fatal(err)
	}
	if got, err := s.LoadSecrets(); err != nil || len(got) > 0 {
		t.Errorf("after none is in use: %+v, %v", got, err)
	}
}

func TestHoldSurvives(t *testing.T) {
	s, dir := open(t)
	h, err := hold.New(time.Now(), time.Hour, wire.HeldByDevice)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SaveHold(h); err != nil {
		t.Fatal(err)
	}
	other := h
	other.Until = other.Until.Add(time.Minute)
	if err := s.RemoveHold(other); err != nil {
		t.Fatal(err)
	}
	if got, err := s.LoadHold(); err != nil || got != h {
		t.Errorf("got %s, %v, want %s", got, err, h)
	}
	for range 2 {
		if err := s.RemoveHold(h); err != nil {
			t.Fatal(err)
		}
		if got, err := s.LoadHold(); err != nil || got != (hold.Hold{}) {
			t.Errorf("removed: %s, %v", got, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "hold.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.LoadHold(); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("damaged: %v", err)
	}
}

func TestImagesSurvive(t *testing.T) {
	s, dir := open(t)
	if got, err := s.LoadImages(); err != nil || got != nil {
		t.Fatalf("before the first: %+v, %v", got, err)
	}
	key := reconcile.Key{Deployment: wire.DeploymentID{Namespace: "shop", Name: "web"}, Service: "app"}
	want := []images.Image{
		{Name: "registry.example/app:1", ID: "1", For: key, Unused: time.Date(2026, 3, 4, 12, 0, 0, 5, time.UTC)},
		{Name: "registry.example/app:2", ID: "2", For: key},
	}
	if err := s.SaveImages(want); err != nil {
		t.Fatal(err)
	}
	got, err := s.LoadImages()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("changed on the way (- want, + got):\n%s", diff)
	}
	if err := os.WriteFile(filepath.Join(dir, "images.json"), []byte(`[{"name":"a"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.LoadImages(); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("damaged: %v", err)
	}
}
