package bus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

var states = wire.DeviceStates

func TestFollowReplaysThenListens(t *testing.T) {
	b := startBroker(t, broker.Options{})
	_, js := raw(t, b)
	put(t, js, states, "a.x.y", "old", "b.x.y", "1", "a.x.y", "new")
	conn := connect(t, b)
	r := follow(t, conn, states)
	r.wait(t, "the replay", func() bool { return r.caughtUp == 1 })
	put(t, js, states, "c.x.y", "2")
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: states.Subject("b.x.y"), Header: nats.Header{wire.HeaderOperation: {wire.OperationDelete}}}); err != nil {
		t.Fatal(err)
	}
	r.wait(t, "the changes", func() bool { return len(r.calls) == 6 })
	want := []string{"reset", "b.x.y=1", "a.x.y=new", "caught up", "c.x.y=2", "b.x.y deleted"}
	if diff := cmp.Diff(want, r.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestFollowOfAnEmptyBucketIsCaughtUpAtOnce(t *testing.T) {
	b := startBroker(t, broker.Options{})
	r := follow(t, connect(t, b), states)
	r.wait(t, "the end of an empty replay", func() bool { return r.caughtUp == 1 })
	_, js := raw(t, b)
	put(t, js, states, "a.x.y", "1")
	r.wait(t, "the first value", func() bool { return r.values["a.x.y"] == "1" })
}

func TestFollowPassesPoisonOn(t *testing.T) {
	b := startBroker(t, broker.Options{})
	nc, _ := raw(t, b)
	keys := []string{"A.*", "A.>", "\x00", "A.\x00.b", "\xff\xfe", strings.Repeat("x", 2000), "ü.ü.ü", "..."}
	for _, key := range keys[:len(keys)-1] { // the last is what the server itself refuses
		if err := nc.Publish(states.Subject(key), []byte("\xff{")); err != nil {
			t.Fatalf("publishing under %q: %v", key, err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, b)
	r := follow(t, conn, states)
	r.wait(t, "all poison", func() bool { return r.caughtUp == 1 && len(r.values) == len(keys)-1 })
	for _, key := range keys[:len(keys)-1] {
		if r.values[key] != "\xff{" {
			t.Errorf("key %q is missing", key)
		}
	}
	if err := conn.Purge(t.Context(), states, "A.*", 100); err == nil {
		t.Error("purging a key that is a pattern succeeded: it removes other keys")
	}
	if err := conn.Purge(t.Context(), states, "\xff\xfe", 100); err != nil {
		t.Errorf("purging a poison key: %v", err)
	}
}

// TestFollowGoesOnWhereItWas restarts the broker, in three ways, while values
// are written, and wants each of them once more or for the first time, without a
// replay from the start.
func TestFollowGoesOnWhereItWas(t *testing.T) {
	tests := map[string]struct {
		reason  string
		start   func(*testing.T) testBroker
		disturb func(*testing.T, testBroker)
	}{
		"restart": {"an upgrade of the broker", func(t *testing.T) testBroker { return startBroker(t, broker.Options{}) }, func(t *testing.T, b testBroker) {
			if err := b.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
		"SIGKILL": {"a crash of the broker", func(t *testing.T) testBroker { return startProcess(t, broker.Options{}) }, func(t *testing.T, b testBroker) {
			b.(*broker.Process).Kill()
			if err := b.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
		"consumer lost": {"the broker forgot the consumer and nothing else", func(t *testing.T) testBroker { return startBroker(t, broker.Options{}) }, func(t *testing.T, b testBroker) {
			_, js := raw(t, b)
			stream, err := js.Stream(t.Context(), states.Stream())
			if err != nil {
				t.Fatal(err)
			}
			for name := range stream.ConsumerNames(t.Context()).Name() {
				if err := js.DeleteConsumer(t.Context(), states.Stream(), name); err != nil {
					t.Fatal(err)
				}
			}
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			b := tc.start(t)
			_, js := raw(t, b)
			put(t, js, states, "a.x.y", "1", "b.x.y", "1")
			r := follow(t, connect(t, b), states)
			r.wait(t, "the replay", func() bool { return r.caughtUp == 1 })
			tc.disturb(t, b)
			_, js = raw(t, b)
			put(t, js, states, "a.x.y", "2", "c.x.y", "2")
			begin := time.Now()
			r.wait(t, "the values written meanwhile", func() bool { return r.values["a.x.y"] == "2" && r.values["c.x.y"] == "2" })
			t.Logf("went on after %s", time.Since(begin).Round(time.Millisecond))
			want := []string{"reset", "a.x.y=1", "b.x.y=1", "caught up", "a.x.y=2", "c.x.y=2"}
			if diff := cmp.Diff(want, r.calls); diff != "" {
				t.Errorf("%s; calls (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestFollowBeginsAgainWithANewStream(t *testing.T) {
	b := startBroker(t, broker.Options{})
	_, js := raw(t, b)
	put(t, js, states, "a.x.y", "1", "b.x.y", "1", "c.x.y", "1")
	r := follow(t, connect(t, b), states)
	r.wait(t, "the replay", func() bool { return r.caughtUp == 1 })
	if err := js.DeleteStream(t.Context(), states.Stream()); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), bus.StreamConfig(states)); err != nil {
		t.Fatal(err)
	}
	put(t, js, states, "b.x.y", "2", "d.x.y", "2", "e.x.y", "2", "f.x.y", "2")
	r.wait(t, "the second replay", func() bool { return r.caughtUp == 2 && len(r.values) == 4 })
	if diff := cmp.Diff(map[string]string{"b.x.y": "2", "d.x.y": "2", "e.x.y": "2", "f.x.y": "2"}, r.values); diff != "" {
		t.Errorf("values after the second reset (-want +got):\n%s", diff)
	}
}

// TestFollowBeginsAgainWithAShorterStream gives the broker a store back that is
// older than what was followed, as a restored backup or a power cut does.
func TestFollowBeginsAgainWithAShorterStream(t *testing.T) {
	dir, backup := t.TempDir(), t.TempDir()
	b := startBroker(t, broker.Options{Dir: dir})
	_, js := raw(t, b)
	put(t, js, states, "a.x.y", "1")
	b.Stop()
	if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, js = raw(t, b)
	put(t, js, states, "b.x.y", "1", "c.x.y", "1")
	r := follow(t, connect(t, b), states)
	r.wait(t, "the replay", func() bool { return r.caughtUp == 1 && len(r.values) == 3 })
	b.Stop()
	if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(backup))); err != nil {
		t.Fatal(err)
	}
	if err := b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.wait(t, "the replay of the old store", func() bool { return r.caughtUp == 2 })
	if diff := cmp.Diff(map[string]string{"a.x.y": "1"}, r.values); diff != "" {
		t.Errorf("values after the second reset (-want +got):\n%s", diff)
	}
}

// TestFollowOfABucketInMemory restarts the broker under a bucket in memory: it
// comes back as another, empty stream.
func TestFollowOfABucketInMemory(t *testing.T) {
	inMemory := only(wire.DeviceHeartbeats, func(c *jetstream.StreamConfig) {
		c.Storage, c.PersistMode = jetstream.MemoryStorage, jetstream.DefaultPersistMode
	})
	b := startBroker(t, broker.Options{Shape: inMemory})
	_, js := raw(t, b)
	put(t, js, wire.DeviceHeartbeats, "a", "1")
	r := follow(t, connect(t, b), wire.DeviceHeartbeats)
	r.wait(t, "the replay", func() bool { return r.caughtUp == 1 })
	if err := b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.wait(t, "the replay of the new stream", func() bool { return r.caughtUp == 2 && len(r.values) == 0 })
}

// TestFollowStaysQuiet follows a bucket without writes for longer than a pull
// request lasts: nothing may be taken for a failure.
func TestFollowStaysQuiet(t *testing.T) {
	t.Parallel()
	b := startBroker(t, broker.Options{})
	_, js := raw(t, b)
	put(t, js, states, "a.x.y", "1")
	r := follow(t, connect(t, b), states)
	r.wait(t, "the replay", func() bool { return r.caughtUp == 1 })
	stream, err := js.Stream(t.Context(), states.Stream())
	if err != nil {
		t.Fatal(err)
	}
	names := func() (all []string) {
		for name := range stream.ConsumerNames(t.Context()).Name() {
			all = append(all, name)
		}
		return all
	}
	before := names()
	time.Sleep(12 * time.Second)
	if diff := cmp.Diff(before, names()); diff != "" || len(before) != 1 {
		t.Errorf("want one consumer, and the same (-before +after):\n%s", diff)
	}
}

// TestReplayEndsWithoutWhatWasPurged purges keys while they are replayed.
func TestReplayEndsWithoutWhatWasPurged(t *testing.T) {
	b := startBroker(t, broker.Options{})
	nc, js := raw(t, b)
	const keys = 20000
	fill(t, nc, keys)
	conn := connect(t, b)
	r := newRecorder()
	slow := &slowFollower{recorder: r, first: make(chan struct{}), proceed: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- conn.Follow(ctx, states, slow) }()
	<-slow.first
	stream, err := js.Stream(t.Context(), states.Stream())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(slow.proceed)
	r.wait(t, "the end of the replay", func() bool { return r.caughtUp == 1 })
	t.Logf("%d of %d keys came", len(r.values), keys)
	cancel()
	<-ended //nolint:errcheck // it was cancelled
}

// slowFollower stops at the first entry.
type slowFollower struct {
	*recorder
	first, proceed chan struct{}
	stopped        bool
}

func (s *slowFollower) Entry(e bus.Entry) {
	if !s.stopped {
		s.stopped = true
		close(s.first)
		<-s.proceed
	}
	s.recorder.Entry(e)
}

// fill stores a value of the usual size under that many keys.
func fill(t testing.TB, nc *nats.Conn, keys int) {
	t.Helper()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1000))
	if err != nil {
		t.Fatal(err)
	}
	value := []byte(strings.Repeat("x", 250))
	for i := range keys {
		if _, err := js.PublishAsync(states.Subject(fmt.Sprintf("device-%06d.default.web", i)), value, jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
}

func TestSnapshotAndList(t *testing.T) {
	b := startBroker(t, broker.Options{})
	conn := connect(t, b)
	if state, err := conn.Snapshot(t.Context(), states, func(e bus.Entry) { t.Errorf("entry %q in an empty bucket", e.Key) }); err != nil || state.LastSequence != 0 {
		t.Errorf("Snapshot() of an empty bucket = %+v, %v", state, err)
	}
	_, js := raw(t, b)
	put(t, js, states, "a.default.web", "1", "b.default.web", "2", "b.default.db", "3", "a.default.web", "4")
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: states.Subject("c.default.web"), Header: nats.Header{wire.HeaderOperation: {wire.OperationPurge}}}); err != nil {
		t.Fatal(err)
	}
	var got []string
	state, err := conn.Snapshot(t.Context(), states, func(e bus.Entry) { got = append(got, fmt.Sprintf("%s=%s %t", e.Key, e.Value, e.Deleted)) })
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"b.default.web=2 false", "b.default.db=3 false", "a.default.web=4 false", "c.default.web= true"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Snapshot() (-want +got):\n%s", diff)
	}
	if now, err := conn.State(t.Context(), states); err != nil || now != state || state.LastSequence != 5 {
		t.Errorf("State() = %+v, %v, want the snapshot's %+v", now, err, state)
	}
	entries, err := conn.List(t.Context(), states, "*.default.web")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for _, e := range entries {
		values[e.Key] = string(e.Value)
	}
	if diff := cmp.Diff(map[string]string{"a.default.web": "4", "b.default.web": "2"}, values); diff != "" {
		t.Errorf("List() (-want +got):\n%s", diff)
	}
	if entries, err := conn.List(t.Context(), states, "*.other.web"); err != nil || len(entries) != 0 {
		t.Errorf("List() of what is not there = %v, %v", entries, err)
	}
}

func TestPurgeLeavesWhatCameLater(t *testing.T) {
	b := startBroker(t, broker.Options{})
	conn := connect(t, b)
	_, js := raw(t, b)
	put(t, js, states, "a.x.y", "1", "ab.x.y", "1", "a.x.y", "2")
	for _, step := range []struct {
		through uint64
		left    int
	}{{1, 2}, {2, 2}, {3, 1}} {
		if err := conn.Purge(t.Context(), states, "a.x.y", step.through); err != nil {
			t.Fatal(err)
		}
		entries, err := conn.List(t.Context(), states, ">")
		if err != nil || len(entries) != step.left {
			t.Errorf("after purging through %d: %d entries, %v, want %d", step.through, len(entries), err, step.left)
		}
	}
}
