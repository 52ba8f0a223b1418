package fleet

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// TestPresence plays a script of heartbeats and looks at the patches. Each step
// is a time in seconds since the beginning, and what is sent: a session, or "-"
// for nothing; want is the conditions that are patched then, "" for no patch.
func TestPresence(t *testing.T) {
	type step struct {
		at   int
		send string
		want string
	}
	never, missed, up := "Reachable=False/NeverSeen", "Reachable=False/HeartbeatMissed", "Reachable=True/HeartbeatReceived"
	conflict := up + " IdentityConflict=True/TwoAgents"
	cases := map[string]struct {
		reason string
		steps  []step
	}{
		"NeverSeen": {reason: "without a heartbeat on record, said once",
			steps: []step{{0, "-", never}, {1000, "-", ""}}},
		"ComesAndGoes": {reason: "one patch for each transition",
			steps: []step{{0, "a", up}, {30, "a", ""}, {60, "a", ""}, {160, "-", ""}, {161, "-", missed}, {500, "-", ""}, {501, "a", up}}},
		"Restart": {reason: "a new session alone is an agent that was restarted",
			steps: []step{{0, "a", up}, {30, "b", ""}, {60, "b", ""}, {90, "c", ""}}},
		"TwoAgents": {reason: "sessions that alternate are two agents, until ten minutes after the last time",
			steps: []step{{0, "a", up}, {15, "b", ""}, {30, "a", conflict}, {45, "b", ""},
				{120, "b", ""}, {200, "b", ""}, {300, "b", ""}, {400, "b", ""}, {500, "b", ""}, {600, "b", ""}, {644, "b", ""}, {645, "-", up}}},
		"LongAgo": {reason: "a session that comes back after more than ten intervals is no alternation",
			steps: []step{{0, "a", up}, {90, "b", ""}, {180, "b", ""}, {270, "b", ""}, {301, "a", ""}}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			begin := w.now
			w.setDevice("a", nil)
			w.f.Converge()
			for _, step := range tc.steps {
				w.now = begin.Add(time.Duration(step.at) * time.Second)
				if step.send != "-" {
					w.heartbeat("a", wire.Heartbeat{Session: strings.Repeat(step.send, 8)})
				}
				got := ""
				for _, p := range w.f.TakeDevices(w.now, 10) {
					got = showConditions(p.Conditions)
					w.devices["a"].conditions = p.Conditions
					w.f.DeviceWritten(p, true)
				}
				if got != step.want {
					t.Fatalf("%s: at %d s patched %q, want %q", tc.reason, step.at, got, step.want)
				}
			}
		})
	}
}

func showConditions(conditions []metav1.Condition) string {
	var all []string
	for _, c := range conditions {
		all = append(all, c.Type+"="+string(c.Status)+"/"+c.Reason)
	}
	return strings.Join(all, " ")
}

// TestPresenceAfterRestart: what the resource says already is not said again,
// and a transition time stays when another condition moves.
func TestPresenceAfterRestart(t *testing.T) {
	since := metav1.NewTime(time.Unix(1_700_000_000, 0))
	known := []metav1.Condition{
		{Type: "Reachable", Status: metav1.ConditionFalse, Reason: "HeartbeatMissed", LastTransitionTime: since},
		{Type: "IdentityConflict", Status: metav1.ConditionTrue, Reason: "TwoAgents", LastTransitionTime: since},
	}
	w := newWorld()
	w.devices["a"] = &resource{conditions: known}
	w.setDevice("a", nil)
	w.f.Converge()
	w.checkQuiet(t)
	w.now = w.now.Add(10 * time.Minute)
	patches := w.f.TakeDevices(w.now, 10)
	if len(patches) != 1 || len(patches[0].Conditions) != 1 || !patches[0].Conditions[0].LastTransitionTime.Equal(&since) {
		t.Fatalf("the conflict is over and nothing else moved: %+v", patches)
	}
	w.f.DeviceWritten(patches[0], false)
	if again := w.f.TakeDevices(w.now, 10); len(again) != 1 {
		t.Fatalf("a patch that failed is taken again: %+v", again)
	}

	// A cache that still shows the older conditions is not believed, a resource
	// that was made anew is.
	w.f.DeviceWritten(patches[0], true)
	w.heartbeat("a", wire.Heartbeat{Session: "0000000a"})
	up := w.f.TakeDevices(w.now, 10)
	w.f.DeviceWritten(up[0], true)
	w.f.SetDevice("a", nil, known)
	if again := w.f.TakeDevices(w.now, 10); len(again) > 0 {
		t.Fatalf("patched again for a stale cache: %+v", again)
	}
	w.f.SetDevice("a", nil, nil)
	if again := w.f.TakeDevices(w.now, 10); len(again) != 1 {
		t.Fatalf("a resource without conditions gets them: %+v", again)
	}
}
