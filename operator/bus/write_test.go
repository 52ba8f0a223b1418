package bus_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

var desired = wire.DesiredState

// unit is a device's manifest with its keys, all of the same round, so that a
// torn unit shows.
func unit(device, keys int, round string) []bus.Message {
	id := fmt.Sprintf("device-%05d", device)
	messages := make([]bus.Message, 0, keys+1)
	for k := range keys {
		messages = append(messages, bus.Message{Key: fmt.Sprintf("%s.default.app-%d", id, k), Value: []byte(round)})
	}
	return append(messages, bus.Message{Key: id, Value: []byte(round)})
}

func units(devices, keys int, round string) [][]bus.Message {
	all := make([][]bus.Message, devices)
	for d := range all {
		all[d] = unit(d, keys, round)
	}
	return all
}

// rounds returns the round that each device is in. A torn unit is an error of
// the test.
func rounds(t *testing.T, conn *bus.Conn) (map[string]string, error) {
	t.Helper()
	found := map[string]string{}
	_, err := conn.Snapshot(t.Context(), desired, func(e bus.Entry) {
		device, _, _ := strings.Cut(e.Key, ".")
		round := string(e.Value)
		if before, seen := found[device]; seen && before != round {
			t.Errorf("%s: key %q is of round %q, others of round %q", device, e.Key, round, before)
		}
		found[device] = round
	})
	return found, err
}

func TestWrite(t *testing.T) {
	b := startBroker(t, broker.Options{})
	conn := connect(t, b)
	all := units(5000, 2, "one")
	stored, err := conn.Write(t.Context(), all)
	if err != nil || slices.Contains(stored, false) {
		t.Fatalf("Write() = %d of %d stored, %v", count(stored), len(stored), err)
	}
	found, err := rounds(t, conn)
	if err != nil || len(found) != len(all) {
		t.Errorf("found %d devices, %v, want %d", len(found), err, len(all))
	}
	state, err := conn.State(t.Context(), desired)
	if err != nil || state.LastSequence != 15000 {
		t.Errorf("State() = %+v, %v, want each message once", state, err)
	}
}

func count(stored []bool) (n int) {
	for _, s := range stored {
		if s {
			n++
		}
	}
	return n
}

// TestWriteIsRepublished wants a unit to arrive at a listening device in order.
func TestWriteIsRepublished(t *testing.T) {
	b := startBroker(t, broker.Options{Devices: []wire.DeviceID{"device-00007"}})
	as := b.Device("device-00007")
	device, err := nats.Connect(b.URL(), nats.UserInfo(as.User, as.Password))
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	hints := make(chan *nats.Msg, 10)
	for _, subject := range []string{wire.DesiredHint("device-00007"), wire.DesiredHint("device-00007") + ".*.*"} {
		if _, err := device.ChanSubscribe(subject, hints); err != nil {
			t.Fatal(err)
		}
	}
	if err := device.Flush(); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, b)
	deletion := []bus.Message{{Key: "device-00007.default.app-0", Delete: true}, {Key: "device-00007", Value: []byte("two")}}
	if _, err := conn.Write(t.Context(), [][]bus.Message{unit(7, 1, "one"), unit(8, 1, "one"), deletion}); err != nil {
		t.Fatal(err)
	}
	want := []string{"app-0=one", "00007=one", "app-0=", "00007=two"}
	for i, w := range want {
		select {
		case msg := <-hints:
			if got := msg.Subject + "=" + string(msg.Data); !strings.HasSuffix(got, w) {
				t.Errorf("hint %d is %q, want ...%q", i, got, w)
			}
			if op := msg.Header.Get(wire.HeaderOperation); (op == wire.OperationDelete) != (i == 2) {
				t.Errorf("hint %d has the operation %q", i, op)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("hint %d did not come", i)
		}
	}
}

func TestDeletionMarkerExpires(t *testing.T) {
	b := startBroker(t, broker.Options{})
	conn := connect(t, b)
	for _, unit := range [][]bus.Message{{{Key: "a.x.y", Value: []byte("1")}}, {{Key: "a.x.y", Delete: true}}} {
		if _, err := conn.Write(t.Context(), [][]bus.Message{unit}); err != nil {
			t.Fatal(err)
		}
	}
	_, js := raw(t, b)
	stream, err := js.Stream(t.Context(), desired.Stream())
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetLastMsgForSubject(t.Context(), desired.Subject("a.x.y"))
	if err != nil {
		t.Fatal(err)
	}
	if ttl := msg.Header.Get(jetstream.MsgTTLHeader); ttl != "1h0m0s" || len(msg.Data) != 0 {
		t.Errorf("the marker has the TTL %q and %d bytes, want an hour and none", ttl, len(msg.Data))
	}
}

func TestWriteRefuses(t *testing.T) {
	tests := map[string]struct {
		reason string
		units  [][]bus.Message
		stored []bool
		want   string
	}{
		"value too large": {"one poisoned unit must not keep others from being written", [][]bus.Message{
			unit(1, 1, "x"), {{Key: "big", Value: make([]byte, desired.MaxMessageSize)}}, unit(2, 1, "x"),
		}, []bool{true, false, true}, `key "big"`},
		"unit too large": {"a unit that cannot be whole is not written in part", [][]bus.Message{
			unit(1, 1000, "x"), unit(2, 999, "x"),
		}, []bool{false, true}, "at most 1000 messages"},
		"nothing":    {"no unit is no error", nil, []bool{}, ""},
		"empty unit": {"there is nothing to store of it", [][]bus.Message{{}}, []bool{true}, ""},
	}
	b := startBroker(t, broker.Options{})
	conn := connect(t, b)
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			stored, err := conn.Write(t.Context(), tc.units)
			if !slices.Equal(stored, tc.stored) {
				t.Errorf("%s: stored = %v, want %v", tc.reason, stored, tc.stored)
			}
			if tc.want == "" && err == nil {
				return
			}
			if !errors.Is(err, bus.ErrTooLarge) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: error = %v, want one with %q", tc.reason, err, tc.want)
			}
		})
	}
}

func TestWriteWithoutStream(t *testing.T) {
	tests := map[string]struct {
		reason string
		shape  func(*jetstream.StreamConfig) bool
		want   string
	}{
		"missing":    {"nobody answers for a stream that is not there", func(c *jetstream.StreamConfig) bool { return c.Name != desired.Stream() }, "no responders"},
		"no batches": {"the stream does not take batches", func(c *jetstream.StreamConfig) bool { c.AllowAtomicPublish = false; return true }, "atomic publish is disabled"},
		"full":       {"a full stream refuses what is new", func(c *jetstream.StreamConfig) bool { c.MaxBytes = 10; return true }, "maximum bytes exceeded"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			conn := connect(t, startBroker(t, broker.Options{Shape: tc.shape}))
			stored, err := conn.Write(t.Context(), units(3, 1, "x"))
			if err == nil || count(stored) != 0 || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: Write() = %v, %v, want an error with %q", tc.reason, stored, err, tc.want)
			}
		})
	}
}

// TestWriteWhileTheBrokerRestarts writes round after round while the broker is
// restarted or killed, and wants that what was called stored is there, that no
// unit is torn, and that writing again makes it whole.
func TestWriteWhileTheBrokerRestarts(t *testing.T) {
	kinds := map[string]func(*testing.T, *broker.Process){
		"restart": func(*testing.T, *broker.Process) {},
		"SIGKILL": func(_ *testing.T, b *broker.Process) { b.Kill() },
	}
	for name, end := range kinds {
		t.Run(name, func(t *testing.T) {
			b := startProcess(t, broker.Options{SyncAlways: true})
			conn := connect(t, b)
			var wg sync.WaitGroup
			wg.Go(func() {
				for range 3 {
					time.Sleep(300 * time.Millisecond)
					end(t, b)
					if err := b.Restart(t.Context()); err != nil {
						t.Error(err)
						return
					}
				}
			})
			disturbed := make(chan struct{})
			go func() { wg.Wait(); close(disturbed) }()
			certain := make([]int, 2000) // by device, the last round that was called stored
			failures, round := 0, 1
			for last := false; !last; round++ {
				select {
				case <-disturbed:
					waitConnected(t, conn)
					last = true
				default:
				}
				batch := units(len(certain), 1, strconv.Itoa(round))
				stored, err := conn.Write(t.Context(), batch)
				if (err == nil) != (count(stored) == len(batch)) || last && err != nil {
					t.Errorf("round %d: %d of %d stored, error %v", round, count(stored), len(batch), err)
				}
				for i := range stored {
					if stored[i] {
						certain[i] = round
					}
				}
				if err != nil {
					failures++
					waitConnected(t, conn)
					checkRounds(t, conn, certain)
				}
			}
			checkRounds(t, conn, certain)
			if failures == 0 {
				t.Error("no write was disturbed")
			}
			t.Logf("%d rounds, %d of them disturbed", round, failures)
		})
	}
}

// checkRounds wants every device whole, and in the round that was stored for
// certain or in a later one.
func checkRounds(t *testing.T, conn *bus.Conn, certain []int) {
	t.Helper()
	found, err := rounds(t, conn)
	for deadline := time.Now().Add(20 * time.Second); err != nil; found, err = rounds(t, conn) {
		if time.Now().After(deadline) { // before that, it was disturbed again
			t.Fatal(err)
		}
		waitConnected(t, conn)
	}
	for i, want := range certain {
		id := fmt.Sprintf("device-%05d", i)
		if got, _ := strconv.Atoi(found[id]); got < want {
			t.Errorf("%s is in round %d although round %d was stored for certain", id, got, want)
		}
	}
}

func waitConnected(t *testing.T, conn *bus.Conn) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !conn.Connected(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not connected after 20s")
		}
	}
}

func TestWriteWithoutConnection(t *testing.T) {
	b := startBroker(t, broker.Options{Dir: t.TempDir()})
	conn := connect(t, b)
	b.Stop()
	begin := time.Now()
	_, err := conn.Write(t.Context(), units(3, 1, "x"))
	for err != nil && !errors.Is(err, bus.ErrDisconnected) && time.Since(begin) < time.Second {
		_, err = conn.Write(t.Context(), units(3, 1, "x")) // the loss may not have been noticed yet
	}
	if !errors.Is(err, bus.ErrDisconnected) || time.Since(begin) > 2*time.Second {
		t.Errorf("Write() = %v after %s, want ErrDisconnected at once", err, time.Since(begin))
	}
	if _, err := conn.State(t.Context(), desired); !errors.Is(err, bus.ErrDisconnected) {
		t.Errorf("State() = %v, want ErrDisconnected", err)
	}
	if err := conn.Verify(t.Context()); !errors.Is(err, bus.ErrDisconnected) {
		t.Errorf("Verify() = %v, want ErrDisconnected", err)
	}
}
