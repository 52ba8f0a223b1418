package twin

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// world is some agents with one device id, and what is under way between them.
// Heartbeats of one agent arrive in their order at each other, after any delay.
type world struct {
	t      *rapid.T
	random *rand.Rand
	now    time.Time
	queue  queue
	events int
	agents []*agent
	// writers are the agents that began to report, one by one.
	writers []string
	// stored is who wrote last what the broker has.
	stored string
}

type agent struct {
	session string
	watch   *Watch
	verdict Verdict
	said    wire.TwinRole // in its last heartbeat
	// old ones neither listen nor say what they do, and always report.
	old         bool
	alive, deaf bool
	wake        int // number of the last one; earlier ones count no more
	due         time.Time
	lastTo      map[string]time.Time // when the last heartbeat to another arrives
}

// event is something that happens at a time; n keeps those of one time in order.
type event struct {
	at time.Time
	n  int
	do func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return cmp.Or(q[i].at.Compare(q[j].at), cmp.Compare(q[i].n, q[j].n)) < 0
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(e any)   { *q = append(*q, e.(event)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

func newWorld(t *rapid.T) *world {
	return &world{t: t, now: time.Unix(1000, 0), random: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))}
}

func (w *world) after(d time.Duration, do func()) {
	w.events++
	heap.Push(&w.queue, event{w.now.Add(d), w.events, do})
}

// until plays everything that happens until a time.
func (w *world) until(end time.Time) {
	for len(w.queue) > 0 && !w.queue[0].at.After(end) {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
	}
	w.now = end
}

// delay of a message: an answer is there before Settle is over.
func (w *world) delay() time.Duration { return time.Duration(1 + w.random.Int64N(int64(Settle)/2-1)) }

func (w *world) start(old bool) *agent {
	a := &agent{
		session: fmt.Sprintf("%08x", w.random.Uint32()),
		old:     old, alive: true, lastTo: map[string]time.Time{},
	}
	a.watch = New(a.session, Settle)
	w.agents = append(w.agents, a)
	if old {
		a.verdict.Reports = true
	}
	w.connect(a)
	return a
}

func (w *world) connect(a *agent) {
	a.deaf = false
	a.watch.Listen(w.now)
	w.turn(a, true)
	w.write(a, reassert)
}

// reassert is how long an agent waits until it writes all again.
const reassert = 5 * time.Second

// write has an agent write after a while, if it reports then.
func (w *world) write(a *agent, later time.Duration) {
	w.after(later, func() {
		if a.alive && !a.deaf && a.verdict.Reports {
			w.after(w.delay(), func() { w.stored = a.session })
		}
	})
}

// turn is what the agent does when something happened, as package bus does it.
func (w *world) turn(a *agent, beat bool) {
	if !a.alive || a.deaf {
		return
	}
	wait := idle
	if !a.old {
		last := a.verdict
		a.verdict = a.watch.Look(w.now)
		wait = a.verdict.Wait
		switch {
		case a.verdict.Reports && !last.Reports:
			w.writers = append(w.writers, a.session)
			w.write(a, 0)
		case a.verdict.Rewrite:
			w.write(a, reassert)
		}
		beat = beat || a.watch.Role() != "" && a.watch.Role() != a.said
	}
	if beat || !w.now.Before(a.due) {
		w.send(a)
		a.due = w.now.Add(wire.HeartbeatInterval*9/10 + time.Duration(w.random.Int64N(int64(wire.HeartbeatInterval)/5)))
	}
	a.wake++
	wake := a.wake
	w.after(min(a.due.Sub(w.now), wait), func() {
		if wake == a.wake {
			w.turn(a, false)
		}
	})
}

func (w *world) send(a *agent) {
	beat := wire.Heartbeat{Session: a.session}
	if !a.old {
		beat.Twin = a.watch.Role()
		a.said = beat.Twin
	}
	for _, to := range w.agents {
		if to == a || to.old {
			continue
		}
		arrives := w.now.Add(w.delay())
		if last := a.lastTo[to.session]; arrives.Before(last) {
			arrives = last
		}
		a.lastTo[to.session] = arrives
		w.after(arrives.Sub(w.now), func() {
			if to.alive && !to.deaf {
				w.turn(to, to.watch.Hear(beat, w.now))
			}
		})
	}
}

// reporters are those that report and can be heard.
func (w *world) reporters() (all []string) {
	for _, a := range w.agents {
		if a.alive && !a.deaf && a.verdict.Reports {
			all = append(all, a.session)
		}
	}
	return all
}

// TestOneReports: whatever agents with one device id went through, soon after it has
// ended one of them reports, the same from then on, what is stored is its own, and
// each knows of the others.
func TestOneReports(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 3).Draw(t, "agents") {
			w.start(false)
			w.until(w.now.Add(w.delay()))
		}
		if rapid.IntRange(0, 9).Draw(t, "old") == 0 {
			w.start(true)
		}
		for range rapid.IntRange(0, 12).Draw(t, "events") {
			a := rapid.SampledFrom(w.agents).Draw(t, "agent")
			switch rapid.SampledFrom([]string{"restart", "stop", "start", "cut", "mend", "wait"}).Draw(t, "event") {
			case "restart":
				if a.alive && !a.old {
					a.alive = false
					w.start(false)
				}
			case "stop":
				a.alive = false
			case "start":
				if len(w.agents) < most {
					w.start(false)
				}
			case "cut":
				a.deaf = true
			case "mend":
				if a.alive && a.deaf {
					w.connect(a)
				}
			}
			w.until(w.now.Add(time.Duration(rapid.IntRange(0, 150_000).Draw(t, "pause")) * time.Millisecond))
		}
		live, old := 0, false
		for _, a := range w.agents {
			old = old || a.old // nobody hears what it writes, nor does it of others
			if a.alive && a.deaf {
				w.connect(a)
			}
			if a.alive {
				live++
			}
		}
		w.until(w.now.Add(3 * Silence))
		before, settled := w.reporters(), len(w.writers)
		w.until(w.now.Add(20 * Silence))
		after := w.reporters()
		if live > 0 && (len(before) != 1 || len(after) != 1 || before[0] != after[0]) {
			t.Fatalf("%q reported, and later %q", before, after)
		}
		if live > 0 && !old && w.stored != after[0] {
			t.Fatalf("%q reports, and what is stored is of %s", after, w.stored)
		}
		if len(w.writers) != settled {
			t.Fatalf("%q began to report when nothing happened any more", w.writers[settled:])
		}
		for _, a := range w.agents {
			if a.alive && !a.old && len(a.verdict.Others) != live-1 {
				t.Fatalf("%s knows of %q, and %d agents are live", a.session, a.verdict.Others, live)
			}
		}
	})
}

// TestFirstStays: clones that begin later, and are started anew as often as they
// like, never report as long as the first one lives, which goes on all the time.
func TestFirstStays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		first := w.start(false)
		w.until(w.now.Add(Settle + time.Millisecond))
		for range rapid.IntRange(1, 6).Draw(t, "clones") {
			clone := w.start(false)
			w.until(w.now.Add(time.Duration(rapid.IntRange(0, 300_000).Draw(t, "pause")) * time.Millisecond))
			clone.alive = rapid.Bool().Draw(t, "lives")
		}
		w.until(w.now.Add(10 * Silence))
		if len(w.writers) != 1 || !first.verdict.Reports {
			t.Fatalf("%q began to report beside the first, %s, which does: %t", w.writers[1:], first.session, first.verdict.Reports)
		}
	})
}
