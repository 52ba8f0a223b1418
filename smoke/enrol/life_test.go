package enrol_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// TestLife: a device is enrolled, runs what it shall, is revoked, is given another
// key, and is removed. Another one gets its id and inherits nothing.
func TestLife(t *testing.T) {
	t.Run("policies in the cluster", func(t *testing.T) { newWorld(t, inCluster).life("pi-1") })
	t.Run("policies in OpenBao", func(t *testing.T) { newWorld(t, inOpenBao).life("pi-2") })
}

func (w *world) life(id string) {
	first := w.newMachine("a")
	command, err := w.fleet("enroll", id, "--label", "group=a")
	w.must(err)
	out, err := first.join(command)
	if err != nil || !strings.Contains(out, "joined as device "+id) {
		w.Fatalf("%v: %s", err, out)
	}
	agent := first.start()
	_, err = w.fleet("apply", "--name", "hello", "--image", w.registry.Ref("hello:v1"), "--selector", "group=a")
	w.must(err)
	w.eventually("it runs", func() error { return w.says("1 succeeded", "", "status", "hello") })

	thief := w.newMachine("a")
	if out, err := thief.join(command); err == nil || !strings.Contains(out, "It was used or withdrawn") {
		w.Errorf("the command works twice: %v: %s", err, out)
	}

	_, err = w.fleet("revoke", id, "--reason", "lost")
	w.must(err)
	revoked := time.Now()
	w.eventually("it is cut off", func() error {
		if _, err := w.fleet("ping", id); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
	w.Logf("cut off %s after it was revoked", time.Since(revoked).Round(10*time.Millisecond))
	w.eventually("it is refused", first.refused)
	agent.Stop(patience)

	command, err = w.fleet("re-enroll", id)
	w.must(err)
	for range 5 {
		if err := first.refused(); err != nil {
			w.Errorf("its old key: %v", err)
		}
	}
	if out, err := first.join(command); err == nil || !strings.Contains(out, "move the file away") {
		w.Errorf("its configuration was replaced: %v: %s", err, out)
	}
	w.must(os.Rename(first.path("conf.d/10-joined.toml"), first.path("joined.old")))
	if out, err := first.join(command); err != nil {
		w.Fatalf("%v: %s", err, out)
	}
	agent = first.start()
	w.eventually("it is back", func() error { return w.says(id, "", "ping", id) })
	w.eventually("it says again what it runs", func() error { return w.says("1 succeeded", "", "status", "hello") })

	w.remove(id)
	w.eventually("it is refused", first.refused)
	w.must(w.says("0 matched", "", "status", "hello"))
	agent.Stop(patience)

	second := w.newMachine("a")
	command, err = w.fleet("enroll", id)
	w.must(err)
	if out, err := second.join(command); err != nil {
		w.Fatalf("%v: %s", err, out)
	}
	second.start()
	w.eventually("it is there, without the label that it claims", func() error {
		return w.says(`Refused label "group"`, "group=a", "whoami", id)
	})
	w.must(w.says("0 matched", "", "status", "hello"))
	for range 5 {
		if err := first.refused(); err != nil {
			w.Errorf("the key of who had the id before: %v", err)
		}
	}
	containers, err := second.podman.Run(w.Context(), "ps", "--all", "--quiet")
	w.must(err)
	if strings.TrimSpace(containers) != "" {
		w.Errorf("it runs what was for another: %s", containers)
	}
}

// remove removes a device, of which the operator believes at once that it is
// silent: it would take minutes.
func (w *world) remove(id string) {
	w.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := w.fleet("remove", id)
		done <- err
	}()
	w.eventually("it is cut off", func() error {
		if _, err := w.fleet("ping", id); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
	w.skew.Add(int64(2 * wire.HeartbeatTimeout))
	w.must(<-done)
}
