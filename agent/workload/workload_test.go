package workload_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/agent/workload"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// runtime is a podman in memory whose pulls may hang and which may be away.
type runtime struct {
	mu         sync.Mutex
	containers []reconcile.Container
	did        []string
	away       bool
	hangs      bool
	slow       map[string]bool // images whose pull never ends
	images     []string
	room       int // images that the disk has room for; 0 for any number
}

func (r *runtime) List(context.Context, wire.DeviceID) ([]reconcile.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		return nil, &reconcile.Failure{Reason: reconcile.ReasonPodmanUnavailable, Message: "no socket"}
	}
	if r.hangs {
		return nil, &reconcile.Failure{Reason: reconcile.ReasonPodmanTimeout, Message: "no answer"}
	}
	return slices.Clone(r.containers), nil
}

func (r *runtime) Do(ctx context.Context, _ wire.DeviceID, step reconcile.Step) reconcile.Outcome {
	r.mu.Lock()
	r.did = append(r.did, fmt.Sprintf("%s %s", step.Deployment.Name, step.Action))
	id := fmt.Sprint("c", len(r.did)) // no other step has it
	slow := step.Action == reconcile.Pull && r.slow[step.Service.Spec.Image]
	r.mu.Unlock()
	if slow {
		<-ctx.Done()
		return reconcile.Outcome{Err: &reconcile.Failure{Reason: reconcile.ReasonImagePullFailed, Message: ctx.Err().Error()}}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.containers, func(c reconcile.Container) bool { return c.ID == step.Container.ID })
	switch step.Action {
	case reconcile.Create:
		r.containers = append(r.containers, reconcile.Container{
			ID: id, Key: step.Key, Digest: step.Service.Digest, State: reconcile.Created, Created: time.Now(),
		})
	case reconcile.Start:
		r.containers[i].State, r.containers[i].Started = reconcile.Running, time.Now()
	case reconcile.Stop:
		r.containers[i].State, r.containers[i].Exited = reconcile.Exited, time.Now()
	case reconcile.Remove:
		r.containers = slices.Delete(r.containers, i, i+1)
	case reconcile.Pull:
		return r.pull(step.Service.Spec.Image)
	case reconcile.Check, reconcile.Examine:
	}
	return reconcile.Outcome{}
}

func (r *runtime) pull(image string) reconcile.Outcome {
	switch {
	case slices.Contains(r.images, image):
		return reconcile.Outcome{}
	case r.room > 0 && len(r.images) >= r.room:
		return reconcile.Outcome{Err: &reconcile.Failure{Reason: reconcile.ReasonDiskSpaceLow, Message: "no room"}}
	}
	r.images = append(r.images, image)
	return reconcile.Outcome{Fetched: "id of " + image}
}

func (r *runtime) RemoveImage(_ context.Context, name, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id != "id of "+name {
		return errors.New("another image")
	}
	r.images = slices.DeleteFunc(r.images, func(image string) bool { return image == name })
	return nil
}

func (r *runtime) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (r *runtime) done() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.did)
}

func newManager(t *testing.T, dir string, o workload.Options) *workload.Manager {
	t.Helper()
	disk, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	o.Device, o.Store, o.PollInterval, o.Log = "pi-1", disk, 5*time.Second, testr.New(t)
	m, err := workload.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// inBubble runs the manager on a clock of the test's own, until do returns.
func inBubble(t *testing.T, r *runtime, report func(wire.DeploymentID, *wire.DeviceState), do func(t *testing.T, m *workload.Manager)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, dir, workload.Options{Podman: r, Report: report})
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		do(t, m)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func want(generation uint64, images map[string]string) store.Desired {
	d := store.Desired{Generation: generation, Deployments: map[wire.DeploymentID]store.Workload{}}
	for name, image := range images {
		canonical, err := score.Encode(score.Score{PodmanV0: &score.PodmanV0{Services: []score.Service{{Name: "app", Image: image}}}})
		if err != nil {
			panic(err)
		}
		d.Deployments[deploymentOf(name)] = store.Workload{Revision: 1, Digest: score.DigestOf(canonical), Score: canonical}
	}
	return d
}

func deploymentOf(name string) wire.DeploymentID {
	return wire.DeploymentID{Namespace: "shop", Name: name}
}

func apply(t *testing.T, m *workload.Manager, d store.Desired) {
	t.Helper()
	if err := m.Apply(d); err != nil {
		t.Fatal(err)
	}
}

func stateOf(m *workload.Manager, name string) string {
	s := m.States()[deploymentOf(name)]
	return string(s.Phase) + "/" + s.Reason
}

func TestNothingKnownTouchesNothing(t *testing.T) {
	r := &runtime{containers: []reconcile.Container{{ID: "old", Key: reconcile.Key{Deployment: deploymentOf("a"), Service: "app"}, State: reconcile.Running}}}
	inBubble(t, r, nil, func(t *testing.T, m *workload.Manager) {
		pass(time.Minute)
		if did := r.done(); len(did) > 0 {
			t.Errorf("before the first desired state: %q", did)
		}
		apply(t, m, want(1, nil))
		pass(time.Minute)
		if diff := cmp.Diff([]string{"a Stop", "a Remove"}, r.done()); diff != "" {
			t.Errorf("after an empty one (- want, + got):\n%s", diff)
		}
	})
}

func TestDamagedDesiredStateTouchesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "desired.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if m := newManager(t, dir, workload.Options{Podman: &runtime{}}); m.Desired().Generation != 0 {
		t.Errorf("desired %+v", m.Desired())
	}
}

func TestApplyKeepsTheNewest(t *testing.T) {
	dir := t.TempDir()
	m := newManager(t, dir, workload.Options{Podman: &runtime{}})
	newest := want(5, map[string]string{"a": "app:1"})
	apply(t, m, newest)
	for _, stale := range []store.Desired{want(4, nil), {}} {
		if err := m.Apply(stale); !errors.Is(err, workload.ErrStale) {
			t.Errorf("generation %d: error %v, want ErrStale", stale.Generation, err)
		}
	}
	apply(t, m, newest)
	if err := os.Mkdir(filepath.Join(dir, "desired.json.tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := m.Apply(want(6, nil)); err == nil {
		t.Error("accepted what could not be written")
	}
	for who, desired := range map[string]store.Desired{"the manager": m.Desired(), "a new one": newManager(t, dir, workload.Options{Podman: &runtime{}}).Desired()} {
		if diff := cmp.Diff(newest, desired); diff != "" {
			t.Errorf("%s holds (- want, + got):\n%s", who, diff)
		}
	}
}

// Pulls that hang hold up neither other Deployments nor a change of their own.
func TestSlowPullBlocksNobody(t *testing.T) {
	r := &runtime{slow: map[string]bool{"slow:1": true}}
	inBubble(t, r, nil, func(t *testing.T, m *workload.Manager) {
		images := map[string]string{"quick": "app:1"}
		apply(t, m, want(1, images))
		pass(5 * time.Second)
		for i := range 10 {
			images[fmt.Sprint("s", i)] = "slow:1"
		}
		apply(t, m, want(2, images))
		pass(5 * time.Second)
		r.set(func() { r.containers[0].State, r.containers[0].Exited = reconcile.Exited, time.Now() })
		pass(8 * time.Second)
		if got := stateOf(m, "quick"); got != "Succeeded/Running" {
			t.Errorf("quick is %s", got)
		}
		if got := stateOf(m, "s0"); got != "Pending/Pulling" {
			t.Errorf("s0 is %s", got)
		}
		for i := range 10 {
			images[fmt.Sprint("s", i)] = "app:1"
		}
		apply(t, m, want(3, images))
		pass(20 * time.Second)
		for id, state := range m.States() {
			if state.Phase != wire.PhaseSucceeded {
				t.Errorf("%s is %+v", id, state)
			}
		}
	})
}

func TestPodmanAway(t *testing.T) {
	r := &runtime{}
	var reports []string
	report := func(_ wire.DeploymentID, s *wire.DeviceState) {
		text := "gone"
		if s != nil {
			text = string(s.Phase) + "/" + s.Reason
		}
		r.set(func() { reports = append(reports, text) })
	}
	heard := func() (since []string) {
		r.set(func() { since, reports = reports, nil })
		return since
	}
	inBubble(t, r, report, func(t *testing.T, m *workload.Manager) {
		apply(t, m, want(1, map[string]string{"a": "app:1"}))
		pass(5 * time.Second)
		heard()
		r.set(func() { r.away = true })
		pass(6 * time.Second)
		if reports := heard(); len(reports) > 0 {
			t.Errorf("away for a moment: reports %q", reports)
		}
		pass(time.Minute)
		apply(t, m, want(2, map[string]string{"b": "app:1"})) // nobody may wait for an end
		pass(time.Second)
		if diff := cmp.Diff([]string{"Failed/PodmanUnavailable", "Failed/PodmanUnavailable"}, heard()); diff != "" {
			t.Errorf("reports (- want, + got):\n%s", diff)
		}
		r.set(func() { r.away = false })
		pass(time.Minute)
		if reports := heard(); !slices.Contains(reports, "gone") || stateOf(m, "b") != "Succeeded/Running" || len(m.States()) != 1 {
			t.Errorf("reports %q, states %+v", reports, m.States())
		}
	})
}

// Why podman cannot be looked at is told as it is, and sooner when it had time to answer.
func TestPodmanHangs(t *testing.T) {
	r := &runtime{}
	inBubble(t, r, nil, func(t *testing.T, m *workload.Manager) {
		apply(t, m, want(1, map[string]string{"a": "app:1"}))
		pass(5 * time.Second)
		r.set(func() { r.hangs = true })
		pass(10 * time.Second) // the next look, and one after it
		if state := stateOf(m, "a"); state != "Failed/PodmanTimeout" {
			t.Errorf("a is %s", state)
		}
		r.set(func() { r.hangs = false })
		pass(time.Minute)
		if state := stateOf(m, "a"); state != "Succeeded/Running" {
			t.Errorf("a is %s again", state)
		}
	})
}

// TestStateThatCannotBeSaved has a disk that is full, and then is not.
func TestStateThatCannotBeSaved(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatalf("mounting a small disk, which needs root: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	big := want(2, map[string]string{"a": "app:1", "b": strings.Repeat("x", 128<<10)})
	r := &runtime{}
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, dir, workload.Options{Podman: r})
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		apply(t, m, want(1, map[string]string{"a": "app:1"}))
		pass(5 * time.Second)
		if err := m.Apply(big); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("got error %v, want no space left", err)
		}
		pass(time.Minute)
		state := m.States()[deploymentOf("b")]
		if state.Reason != reconcile.ReasonDiskFull || state.Digest != big.Deployments[deploymentOf("b")].Digest {
			t.Errorf("what is not saved is %s/%s of %s", state.Phase, state.Reason, state.Digest)
		}
		if held := stateOf(m, "a"); held != "Succeeded/Running" || m.Desired().Generation != 1 {
			t.Errorf("what is held is %s of generation %d", held, m.Desired().Generation)
		}
		r.set(func() { r.away = true })
		pass(time.Minute)
		if b, a := stateOf(m, "b"), stateOf(m, "a"); b != "Failed/DiskFull" || a != "Failed/PodmanUnavailable" {
			t.Errorf("without podman, what is not saved is %s, and what is held %s", b, a)
		}
		r.set(func() { r.away = false })
		apply(t, m, want(3, map[string]string{"a": "app:1"}))
		pass(time.Minute)
		if len(m.States()) != 1 || stateOf(m, "a") != "Succeeded/Running" {
			t.Errorf("after that: %+v", m.States())
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestDeploymentsReport(t *testing.T) {
	inBubble(t, &runtime{slow: map[string]bool{"slow:1": true}}, nil, func(t *testing.T, m *workload.Manager) {
		begin := time.Now()
		apply(t, m, want(1, map[string]string{"b": "app:1", "a": "slow:1"}))
		pass(20 * time.Second)
		got := m.Deployments()
		if len(got) != 2 || got[0].Name != "a" || got[1].Name != "b" || got[1].Revision != 1 {
			t.Fatalf("got %+v", got)
		}
		if got[0].State.Reason != reconcile.ReasonPulling || !got[0].Since.Equal(begin) || got[1].Since.Sub(begin) != 2*time.Second || !got[1].NextTry.IsZero() {
			t.Errorf("since %s and %s, started %s", got[0].Since, got[1].Since, begin)
		}
	})
}

// A disk that is low is made room on before anybody is asked to, and the version before
// stays all the same.
func TestLowDisk(t *testing.T) {
	r, dir := &runtime{room: 2}, t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, dir, workload.Options{Podman: r, ImageRetention: 24 * time.Hour})
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		for i, image := range []string{"app:1", "app:2", "app:3"} {
			apply(t, m, want(uint64(i+1), map[string]string{"a": image}))
			pass(time.Minute)
			if got := stateOf(m, "a"); got != "Succeeded/Running" {
				t.Errorf("%s: %s", image, got)
			}
		}
		here := func() (images []string) {
			r.set(func() { images = slices.Clone(r.images) })
			return images
		}
		if diff := cmp.Diff([]string{"app:2", "app:3"}, here()); diff != "" {
			t.Errorf("images (- want, + got):\n%s", diff)
		}
		r.set(func() { r.room = 1 })
		apply(t, m, want(4, map[string]string{"a": "app:4"}))
		pass(time.Hour)
		if got := stateOf(m, "a"); got != "Failed/DiskSpaceLow" || len(m.States()[deploymentOf("a")].Containers) != 1 {
			t.Errorf("no room: %s, %+v", got, m.States())
		}
		r.set(func() { r.room = 3 })
		pass(10 * time.Minute)
		if got := stateOf(m, "a"); got != "Succeeded/Running" {
			t.Errorf("room again: %s", got)
		}
		pass(48 * time.Hour)
		if diff := cmp.Diff([]string{"app:3", "app:4"}, here()); diff != "" {
			t.Errorf("images after two days (- want, + got):\n%s", diff)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A hold is noticed while the agent runs and by a new one, lasts as long as it was made
// for, and ends sooner when it is taken back.
func TestHold(t *testing.T) {
	r, dir := &runtime{}, t.TempDir()
	disk, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	held := func(length time.Duration) hold.Hold {
		h, err := hold.New(time.Now(), length, wire.HeldByDevice)
		if err == nil {
			err = disk.SaveHold(h)
		}
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	synctest.Test(t, func(t *testing.T) {
		start := func() (m *workload.Manager, stop func()) {
			m = newManager(t, dir, workload.Options{Podman: r})
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() { ended <- m.Run(ctx) }()
			return m, func() {
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
		}
		m, stop := start()
		apply(t, m, want(1, map[string]string{"a": "app:1"}))
		pass(10 * time.Second)
		h := held(time.Hour)
		pass(6 * time.Second)
		if got := m.Hold(); got == nil || *got != h {
			t.Errorf("held: %v, want %s", got, h)
		}
		before := r.done()
		apply(t, m, want(2, map[string]string{"a": "app:2", "b": "app:1"}))
		pass(50 * time.Minute)
		stop()
		m, stop = start()
		pass(6 * time.Second)
		if diff := cmp.Diff(before, r.done()); diff != "" || stateOf(m, "a") != "Pending/Held" || stateOf(m, "b") != "Pending/Held" {
			t.Errorf("a is %s, b is %s, done (- want, + got):\n%s", stateOf(m, "a"), stateOf(m, "b"), diff)
		}
		pass(10 * time.Minute)
		if stateOf(m, "a") != "Succeeded/Running" || m.Hold() != nil {
			t.Errorf("after the hold: %s, %v", stateOf(m, "a"), m.Hold())
		}
		if left, err := disk.LoadHold(); err != nil || left != (hold.Hold{}) {
			t.Errorf("the hold is still there: %s, %v", left, err)
		}
		ordered := want(3, map[string]string{"a": "app:3"})
		ordered.Hold = hold.Hold{Set: time.Now(), Until: time.Now().Add(2 * time.Hour), By: wire.HeldByCluster}.Plain()
		apply(t, m, ordered)
		held(time.Hour)
		pass(time.Minute)
		if got := m.Hold(); got == nil || *got != ordered.Hold || stateOf(m, "a") != "Pending/Held" {
			t.Errorf("held by the cluster for longer: %v, a is %s", got, stateOf(m, "a"))
		}
		pass(2 * time.Hour)
		if stateOf(m, "a") != "Succeeded/Running" || m.Desired().Hold != (hold.Hold{}) {
			t.Errorf("after the cluster's hold: %s, %v", stateOf(m, "a"), m.Desired().Hold)
		}
		if kept, err := disk.LoadDesired(); err != nil || kept.Generation != 3 || kept.Hold != (hold.Hold{}) {
			t.Errorf("on the disk: %+v, %v", kept, err)
		}
		h = held(time.Hour)
		apply(t, m, want(4, nil))
		pass(6 * time.Second)
		if err := disk.RemoveHold(h); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if len(m.States()) > 0 {
			t.Errorf("taken back: %+v", m.States())
		}
		stop()
	})
}
