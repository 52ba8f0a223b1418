package fleet

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// TestPresence plays a script of heartbeats and looks at the patches. Each step
// is a time in seconds since the beginning, and what happens: a session sends, with
// "+" one that stands by, "deaf" and "hears" are the operator, "-" is nothing; want is the conditions that
// are patched then, "" for no patch.
func TestPresence(t *testing.T) {
	type step struct {
		at      int
		happens string
		want    string
	}
	never, missed, up := "Reachable=False/NeverSeen", "Reachable=False/HeartbeatMissed", "Reachable=True/HeartbeatReceived"
	conflict := up + " IdentityConflict=True/TwoAgents and an event TwoAgents"
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
		"StandsBy": {reason: "an agent that stands by knows of another, whatever the order of their heartbeats",
			steps: []step{{0, "a", up}, {10, "b", ""}, {20, "c+", conflict}, {30, "a", ""}, {40, "b", ""}, {50, "c+", ""}, {60, "a", ""},
				{150, "a", ""}, {240, "a", ""}, {330, "a", ""}, {420, "a", ""}, {510, "a", ""}, {600, "a", ""}, {649, "a", ""}, {650, "-", up}}},
		"Outage": {reason: "what cannot be heard is not silent, and has the whole time afterwards",
			steps: []step{{0, "a", up}, {50, "deaf", ""}, {500, "-", ""}, {501, "hears", ""}, {601, "-", ""}, {602, "-", missed}}},
		"OutageOver": {reason: "a device that is heard again was never unreachable",
			steps: []step{{0, "a", up}, {50, "deaf", ""}, {501, "hears", ""}, {530, "a", ""}, {630, "-", ""}, {631, "-", missed}}},
		"SilentBefore": {reason: "an outage does not bring back who was silent before it",
			steps: []step{{0, "a", up}, {101, "-", missed}, {110, "deaf", ""}, {200, "-", ""}, {201, "hears", ""}, {202, "-", ""}}},
		"SilentJustBefore": {reason: "whose time was up when the outage began",
			steps: []step{{0, "a", up}, {101, "deaf", missed}, {201, "hears", ""}}},
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
				switch step.happens {
				case "-":
				case "deaf", "hears":
					w.f.Hearing(step.happens == "hears", w.now)
				default:
					session, standsBy := strings.CutSuffix(step.happens, "+")
					beat := wire.Heartbeat{Session: strings.Repeat(session, 8)}
					if standsBy {
						beat.Twin = wire.TwinStandsBy
					}
					w.heartbeat("a", beat)
				}
				got := ""
				for _, p := range w.f.TakeDevices(w.now, 10) {
					if got = showConditions(p.Conditions); p.Event != nil {
						got += " and an event " + p.Event.Reason
					}
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

// TestReachableAfterRestart: a device that was reachable has the time to be heard
// by the operator that takes over.
func TestReachableAfterRestart(t *testing.T) {
	since := metav1.NewTime(time.Unix(1_700_000_000, 0))
	for name, heardFrom := range map[string]bool{"Silent": false, "Heard": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.f.Hearing(false, w.now)
			w.devices["a"] = &resource{conditions: []metav1.Condition{
				{Type: "Reachable", Status: metav1.ConditionTrue, Reason: "HeartbeatReceived", LastTransitionTime: since},
			}}
			w.setDevice("a", nil)
			w.f.Converge()
			w.now = w.now.Add(time.Hour)
			w.checkQuiet(t)
			w.f.Hearing(true, w.now)
			w.now = w.now.Add(wire.HeartbeatTimeout)
			w.checkQuiet(t)
			if heardFrom {
				w.heartbeat("a", wire.Heartbeat{Session: "0000000a"})
			}
			w.now = w.now.Add(time.Second)
			if patches := w.f.TakeDevices(w.now, 10); (len(patches) == 0) != heardFrom {
				t.Fatalf("patches: %+v", patches)
			}
		})
	}
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
