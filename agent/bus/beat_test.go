package bus

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/nationtech/harmony-fleet/agent/twin"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

const alarm = "two agents have one device id"

// told keeps what an agent was last told of others with its device id.
type told struct{ last atomic.Value }

func (o *told) tell(problem error) { o.last.Store(fmt.Sprint(problem)) }
func (o *told) is(words string) bool {
	s, _ := o.last.Load().(string)
	return strings.Contains(s, words)
}

// clone is an agent for pi-4 whose clock the test can set ahead.
type clone struct {
	*agent
	told  told
	ahead atomic.Int64
}

// clone starts an agent that listens for so long before it reports.
func (f *fleet) clone(session string, settle time.Duration) *clone {
	f.Helper()
	c := &clone{}
	options := f.options("pi-4")
	options.Session = session
	options.Twin = c.told.tell
	options.Now = func() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }
	c.agent = f.run(options, func(tm *timing) { tm.settle = settle })
	return c
}

// says has an agent report, and returns whether that is stored.
func (f *fleet) says(c *clone, message string) (stored func() bool) {
	f.Helper()
	if err := c.PutState(dep("web"), state(message)); err != nil {
		f.Fatal(err)
	}
	return func() bool {
		msg := f.stored(wire.DeviceStates, "pi-4.default.web")
		return msg != nil && strings.Contains(string(msg.Data), fmt.Sprintf("%q", message))
	}
}

// writes hears every write of pi-4's states and returns their messages so far.
func (f *fleet) writes() func() []string {
	f.Helper()
	nc := connect(f.T, f.broker.URL(), f.broker.Provisioner())
	var mu sync.Mutex
	var all []string
	if _, err := nc.Subscribe(wire.DeviceStates.Subject("pi-4.>"), func(msg *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if s, err := wire.DecodeDeviceState(msg.Data); err == nil {
			all = append(all, s.Message)
		}
	}); err != nil {
		f.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		f.Fatal(err)
	}
	return func() []string {
		if err := nc.Flush(); err != nil {
			f.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		return append([]string{}, all...)
	}
}

// TestTwins follows two agents with one device id: the first reports and the clone
// stands by, both say so once, and the clone takes over when the first is gone.
func TestTwins(t *testing.T) {
	f := newFleet(t, "pi-4")
	writes := f.writes()
	// The session of the clone is smaller, and it would settle never: that it does
	// not report is the answer of the first, however slow the machine is.
	first := f.clone("eeeeeeee", time.Millisecond)
	f.eventually("the first reports", f.says(first, "first 0"))
	later := f.clone("00000000", time.Hour)
	f.says(later, "clone 0")
	f.eventually("the clone stands by", func() bool { return later.log.having(alarm, `"standsBy"=true`, `"eeeeeeee"`) > 0 })
	f.eventually("the first says that it goes on", func() bool { return first.log.having(alarm, `"standsBy"=false`, `"00000000"`) > 0 })
	for c, want := range map[*clone]string{first: "this one reports on the device", later: "this one stands by"} {
		if !c.told.is(want) || !c.told.is("kubectl fleet enroll") {
			t.Errorf("an agent is told %q, want %q and what to do", c.told.last.Load(), want)
		}
	}
	want := []string{"first 0"}
	for i := 1; i <= 5; i++ {
		f.says(later, fmt.Sprintf("clone %d", i))
		message := fmt.Sprintf("first %d", i)
		f.eventually("the first reports on", f.says(first, message))
		want = append(want, message)
	}
	if diff := cmp.Diff(want, writes()); diff != "" {
		t.Errorf("written with both live: -want +got\n%s", diff)
	}
	beats := f.beats()
	f.eventually("both go on beating", func() bool { return beats("eeeeeeee") > 3 && beats("00000000") > 3 })
	for name, c := range map[string]*clone{"first": first, "clone": later} {
		if n := c.log.having(alarm); n != 1 {
			t.Errorf("the %s says it %d times, want once", name, n)
		}
	}

	first.stop()
	later.ahead.Store(int64(2 * twin.Silence))
	f.eventually("the clone takes over", func() bool { return len(writes()) > len(want) })
	if diff := cmp.Diff(append(want, "clone 5"), writes()); diff != "" {
		t.Errorf("written after the first was gone: -want +got\n%s", diff)
	}
	f.eventually("the clone says that it is alone", func() bool {
		return later.told.is("<nil>") && later.log.having("no other agent has this device id any more") == 1
	})

	back := f.clone("eeeeeee2", time.Hour)
	f.eventually("the first is back and stands by", func() bool { return back.told.is("this one stands by") })
	f.eventually("the clone reports on", f.says(later, "clone 6"))
	later.peaceful(t)
	back.peaceful(t)
}

// beats counts the heartbeats of a session from now on.
func (f *fleet) beats() func(session string) int {
	f.Helper()
	nc := connect(f.T, f.broker.URL(), f.broker.Provisioner())
	var mu sync.Mutex
	count := map[string]int{}
	if _, err := nc.Subscribe(wire.DeviceHeartbeats.Subject("pi-4"), func(msg *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if h, err := wire.DecodeHeartbeat(msg.Data); err == nil {
			count[h.Session]++
		}
	}); err != nil {
		f.Fatal(err)
	}
	if err := nc.Flush(); err != nil { // what comes over other connections is not missed
		f.Fatal(err)
	}
	return func(session string) int {
		mu.Lock()
		defer mu.Unlock()
		return count[session]
	}
}

// beat has a session send one heartbeat, as an agent does that is too old to listen.
func (f *fleet) beat(session string) {
	f.Helper()
	nc := connect(f.T, f.broker.URL(), f.broker.Device("pi-4"))
	payload, err := wire.Heartbeat{Session: session}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	if err := nc.Publish(wire.DeviceHeartbeats.Subject("pi-4"), payload); err != nil {
		f.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		f.Fatal(err)
	}
}

// TestRestartIsNoTwin: the last heartbeat of the process before raises no alarm, and
// holds nothing up.
func TestRestartIsNoTwin(t *testing.T) {
	f := newFleet(t, "pi-4")
	before := f.clone("00000001", time.Millisecond)
	f.eventually("it reports", f.says(before, "before"))
	before.stop()
	after := f.clone("00000002", time.Millisecond)
	beats := f.beats()
	f.beat("00000001")
	f.eventually("it is heard of", func() bool { return beats("00000001") == 1 && beats("00000002") > 3 })
	f.eventually("the new process reports", f.says(after, "after"))
	if n := before.log.having(alarm) + after.log.having(alarm); n > 0 {
		t.Errorf("a restart raised %d alarms", n)
	}
}

// TestTwinTooOld: an agent that knows nothing of this cannot make way for another.
func TestTwinTooOld(t *testing.T) {
	f := newFleet(t, "pi-4")
	a := f.clone("00000001", time.Millisecond)
	f.eventually("it reports", f.says(a, "one"))
	beats := f.beats()
	f.eventually("the old agent goes on beating, and this one stands by", func() bool {
		f.beat("ffffffff")
		a.ahead.Add(int64(time.Second)) // they are far apart
		return a.told.is("this one stands by")
	})
	stored := f.says(a, "two")
	f.eventually("it beats on", func() bool { return beats("00000001") > 3 })
	if stored() {
		t.Error("it reports beside the other one")
	}
}

// TestRemind: it is said once, again when it changes, and now and then.
func TestRemind(t *testing.T) {
	log, others := &logbook{}, []string{"eeeeeeee"}
	calls := 0
	b := New(Options{Target: Target{Device: "pi-4"}, Session: "00000000", Twin: func(error) { calls++ }, Log: log.logger(t)})
	s := &session{Bus: b}
	now := time.Unix(1_800_000_000, 0)
	var last twin.Verdict
	for _, step := range []struct {
		after  time.Duration
		next   twin.Verdict
		logged int
		told   int
	}{
		{0, twin.Verdict{Reports: true}, 0, 0},
		{0, twin.Verdict{Reports: true, Others: others}, 1, 1},
		{time.Minute, twin.Verdict{Reports: true, Others: others}, 1, 1},
		{0, twin.Verdict{StandsBy: true, Others: others}, 2, 2},
		{remind - time.Second, twin.Verdict{StandsBy: true, Others: others}, 2, 2},
		{time.Second, twin.Verdict{StandsBy: true, Others: others}, 3, 2},
		{0, twin.Verdict{Reports: true}, 3, 3},
		{remind, twin.Verdict{Reports: true}, 3, 3},
	} {
		now = now.Add(step.after)
		s.tell(last, step.next, now)
		if last = step.next; log.having(alarm) != step.logged || calls != step.told {
			t.Errorf("at %s, %+v: logged %d times and told %d times, want %d and %d", now, step.next, log.having(alarm), calls, step.logged, step.told)
		}
	}
}
