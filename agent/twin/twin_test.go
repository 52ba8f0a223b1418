package twin

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// TestWatch plays what one agent, of session m, hears. Each step is a time in
// seconds since it began, and what happens: "SESSION ROLE" is a heartbeat, "listen"
// a new connection, "-" nothing. want is what comes of it: new, reports or standsBy,
// then "rewrite", the others that are live, and "answer" for a heartbeat at once.
func TestWatch(t *testing.T) {
	type step struct {
		at      float64
		happens string
		want    string
	}
	cases := map[string]struct {
		reason string
		steps  []step
	}{
		"Alone": {"an agent alone reports when nobody has answered", []step{
			{0, "listen", "new"}, {2.9, "-", "new"}, {3, "-", "reports"}, {10_000, "-", "reports"}}},
		"Own": {"its own heartbeats are no other agent's", []step{
			{0, "listen", "new"}, {1, "m new", "new"}, {3, "-", "reports"}, {30, "m", "reports"}, {60, "m", "reports"}}},
		"Restart": {"what a predecessor has left under way is no other agent, and holds nothing up", []step{
			{0, "listen", "new"}, {1, "a", "new answer"}, {4, "-", "reports"}, {100, "-", "reports"}, {101, "-", "reports rewrite"}, {102, "-", "reports"}}},
		"RestartOnABadLink": {"nor is it when it comes in late, and several at once", []step{
			{0, "listen", "new"}, {1, "a", "new answer"}, {1.1, "a", "new answer"}, {1.2, "a", "new answer"}, {4, "-", "reports"}}},
		"Later": {"who begins makes way for one that is there", []step{
			{0, "listen", "new"}, {0.1, "a reports", "new answer"}, {0.2, "a reports", "standsBy a answer"}, {30, "a reports", "standsBy a"},
			{129, "-", "standsBy a"}, {130, "-", "reports rewrite"}}},
		"LaterWithAnySession": {"also for one whose session is greater", []step{
			{0, "listen", "new"}, {0.1, "z reports", "new answer"}, {0.2, "z reports", "standsBy z answer"}}},
		"Earlier": {"who is there makes no way for one that begins, and has nothing to write again", []step{
			{0, "listen", "new"}, {3, "-", "reports"}, {50, "a new", "reports answer"}, {50.1, "a new", "reports a answer"}, {50.2, "a standsBy", "reports a"},
			{80, "a standsBy", "reports a"}, {180, "-", "reports"}}},
		"Together": {"of two that begin the smaller session goes first", []step{
			{0, "listen", "new"}, {1, "a new", "new answer"}, {1.1, "a new", "standsBy a answer"}, {2, "a reports", "standsBy a"}}},
		"TogetherAndFirst": {"and the greater one makes way", []step{
			{0, "listen", "new"}, {1, "z new", "new answer"}, {1.1, "z new", "new z answer"}, {1.2, "z standsBy", "new z"}, {4, "-", "reports z"}}},
		"BothReport": {"two that come back from apart, each having reported", []step{
			{0, "listen", "new"}, {3, "-", "reports"}, {500, "a reports", "reports answer"}, {500.1, "a reports", "standsBy a answer"}}},
		"BothReportAndFirst": {"and the one that goes on writes again what the other has written", []step{
			{0, "listen", "new"}, {3, "-", "reports"}, {500, "z reports", "reports answer"}, {500.1, "z reports", "reports z answer"}, {500.2, "z standsBy", "reports rewrite z"}, {501, "-", "reports z"}}},
		"Old": {"one that is too old to listen makes no way, so this one does", []step{
			{0, "listen", "new"}, {3, "-", "reports"}, {20, "z", "reports answer"}, {50, "z", "standsBy z answer"}, {80, "z", "standsBy z"}, {180, "-", "reports rewrite"}}},
		"Newer": {"one with a role that is not known yet is taken to report", []step{
			{0, "listen", "new"}, {1, "z other", "new answer"}, {1.1, "z other", "standsBy z answer"}}},
		"FirstRestarts": {"who stood by goes on doing so when the other one is started anew in time", []step{
			{0, "listen", "new"}, {1, "a reports", "new answer"}, {1.1, "a reports", "standsBy a answer"},
			{80, "b new", "standsBy a answer"}, {80.1, "b new", "standsBy a b answer"}, {80.5, "b new", "standsBy a b answer"}, {83, "b reports", "standsBy a b"}, {102, "b reports", "standsBy b"}}},
		"SecondRestarts": {"an agent that is started anew beside one that stands by goes on", []step{
			{0, "listen", "new"}, {0.1, "a standsBy", "new answer"}, {0.2, "a standsBy", "new a answer"}, {3.1, "-", "reports a"}}},
		"AllStandBy": {"when the one that reported is gone the smallest session takes over", []step{
			{0, "listen", "new"}, {1, "a reports", "new answer"}, {1.1, "a reports", "standsBy a answer"},
			{2, "z standsBy", "standsBy a answer"}, {2.1, "z standsBy", "standsBy a z answer"}, {90, "z standsBy", "standsBy a z"}, {101.2, "-", "reports rewrite z"}}},
		"AllStandByAndLast": {"and the others stand by on", []step{
			{0, "listen", "new"}, {1, "a reports", "new answer"}, {1.1, "a reports", "standsBy a answer"},
			{2, "b standsBy", "standsBy a answer"}, {2.1, "b standsBy", "standsBy a b answer"}, {90, "b standsBy", "standsBy a b"}, {101.2, "-", "standsBy b"},
			{102, "b reports", "standsBy b"}}},
		"Deaf": {"what cannot be heard is not silent: a broker that was away changes nothing", []step{
			{0, "listen", "new"}, {1, "a reports", "new answer"}, {1.1, "a reports", "standsBy a answer"}, {1000, "listen", "standsBy a"}, {1099, "-", "standsBy a"}, {1100, "-", "reports rewrite"}}},
		"AwayForLong": {"who was away for long may have been replaced", []step{
			{0, "listen", "new"}, {3, "-", "reports"}, {60, "listen", "new"}, {62.9, "-", "new"}, {63, "-", "reports"}}},
		"AwayForAMoment": {"who was not has nothing to wait for", []step{
			{0, "listen", "new"}, {3, "-", "reports"}, {40, "listen", "reports"}}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			begin := time.Unix(1000, 0)
			w := New("mmmmmmmm", Settle)
			for _, step := range tc.steps {
				now := begin.Add(time.Duration(step.at * float64(time.Second)))
				answer := false
				switch session, role, _ := strings.Cut(step.happens, " "); session {
				case "-":
				case "listen":
					w.Listen(now)
				default:
					answer = w.Hear(wire.Heartbeat{Session: strings.Repeat(session, 8), Twin: wire.TwinRole(role)}, now)
				}
				if got := show(w.role, w.Look(now), answer); got != step.want {
					t.Fatalf("%s: at %v s, after %q, it is %q, want %q", tc.reason, step.at, step.happens, got, step.want)
				}
			}
		})
	}
}

func show(role wire.TwinRole, v Verdict, answer bool) string {
	words := []string{string(role)}
	if v.Reports != (role == wire.TwinReports) || v.StandsBy != (role == wire.TwinStandsBy) {
		words = append(words, fmt.Sprintf("and not %+v", v))
	}
	if v.Rewrite {
		words = append(words, "rewrite")
	}
	for _, session := range v.Others {
		words = append(words, session[:1])
	}
	if answer {
		words = append(words, "answer")
	}
	return strings.Join(words, " ")
}

// TestRole: nothing is said, which would cost, by an agent that reports and is alone.
func TestRole(t *testing.T) {
	now := time.Unix(1000, 0)
	w := New("mmmmmmmm", Settle)
	w.Listen(now)
	roles := []wire.TwinRole{w.Role()}
	w.Look(now.Add(Settle))
	roles = append(roles, w.Role())
	w.Hear(wire.Heartbeat{Session: "aaaaaaaa"}, now.Add(Settle))
	roles = append(roles, w.Role())
	if diff := cmp.Diff([]wire.TwinRole{wire.TwinNew, "", wire.TwinReports}, roles); diff != "" {
		t.Errorf("roles: -want +got\n%s", diff)
	}
}

// TestWait: there is no other verdict before the time that the last one named.
func TestWait(t *testing.T) {
	now := time.Unix(1000, 0)
	w := New("mmmmmmmm", Settle)
	w.Listen(now)
	if v := w.Look(now); v.Wait != Settle {
		t.Errorf("one that begins is to be asked again in %s, want %s", v.Wait, Settle)
	}
	for range 2 {
		w.Hear(wire.Heartbeat{Session: "aaaaaaaa", Twin: wire.TwinReports}, now)
	}
	if v := w.Look(now.Add(time.Second)); v.Wait != Silence-time.Second || !v.StandsBy {
		t.Errorf("one that stands by is to be asked again in %s, want %s", v.Wait, Silence-time.Second)
	}
}

// TestFlood: whoever has the credentials of a device and draws ever new sessions
// fills no memory.
func TestFlood(t *testing.T) {
	now := time.Unix(1000, 0)
	w := New("mmmmmmmm", Settle)
	w.Listen(now)
	answers := 0
	for i := range 10_000 {
		if w.Hear(wire.Heartbeat{Session: fmt.Sprintf("%08x", i)}, now) {
			answers++
		}
	}
	if len(w.others) != most || answers != most {
		t.Errorf("%d sessions are remembered and %d were answered, want %d", len(w.others), answers, most)
	}
	if v := w.Look(now.Add(Silence)); len(w.others) != 0 || !v.Reports || !slices.Equal(v.Others, nil) {
		t.Errorf("they are not forgotten: %+v", v)
	}
}
