package reconcile_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

func app(change ...func(*score.Service)) score.Service {
	svc := score.Service{Name: "app", Image: "registry.example/app:1"}
	for _, c := range change {
		c(&svc)
	}
	return svc
}

func image(name string) func(*score.Service) {
	return func(svc *score.Service) { svc.Image = "registry.example/" + name }
}

func policy(p score.RestartPolicy) func(*score.Service) {
	return func(svc *score.Service) { svc.RestartPolicy = p }
}

func checked(svc *score.Service) {
	svc.HealthCheck = &score.HealthCheck{Command: []string{"/check"}, IntervalSeconds: 10, StartPeriodSeconds: 20, Retries: 2}
}

// running is a model in which the services run and have settled.
func running(t *testing.T, services ...score.Service) *model {
	t.Helper()
	m := newModel()
	m.want(services...)
	if _, settled := m.settle(); !settled || m.broken != "" {
		t.Fatalf("does not start: %s %+v", m.broken, m.containers)
	}
	m.now = m.now.Add(time.Hour)
	return m
}

// next finishes what is busy with the failure, if any, and tells what a new plan
// begins, as "service Action".
func (m *model) next(failure *reconcile.Failure) []string {
	for _, name := range m.names() {
		m.finish(name, failure)
	}
	begun := []string{}
	for _, step := range m.plan().Steps {
		begun = append(begun, step.Key.Service+" "+string(step.Action))
	}
	return begun
}

// steps is everything that is done until the next plan begins nothing.
func (m *model) steps() []string {
	all := []string{}
	for {
		begun := m.next(nil)
		if len(begun) == 0 {
			return all
		}
		all = append(all, begun...)
	}
}

// cutOff is a model that shall run the next version, when the power was cut.
func cutOff(t *testing.T, state reconcile.ContainerState) *model {
	t.Helper()
	m := running(t, app())
	m.want(app(image("app:2")))
	m.containers[0].State = state
	m.restartAgent()
	return m
}

func TestOrderOfSteps(t *testing.T) {
	second := app(func(svc *score.Service) { svc.Name = "second" })
	for reason, c := range map[string]struct {
		begin func(t *testing.T) *model
		want  []string
	}{
		"the first time": {
			func(*testing.T) *model { m := newModel(); m.want(app()); return m },
			[]string{"app Pull", "app Create", "app Start"},
		},
		"services start in their order": {
			func(*testing.T) *model { m := newModel(); m.want(app(), second); return m },
			[]string{"app Pull", "second Pull", "app Create", "second Create", "app Start", "second Start"},
		},
		"the old one runs until the new one is ready": {
			func(t *testing.T) *model { m := running(t, app()); m.want(app(image("app:2"))); return m },
			[]string{"app Pull", "app Create", "app Stop", "app Start"},
		},
		"a neighbour that did not change is left alone": {
			func(t *testing.T) *model {
				m := running(t, app(), second)
				m.want(app(image("app:2")), second)
				return m
			},
			[]string{"app Pull", "app Create", "app Stop", "app Start"},
		},
		"deleted": {
			func(t *testing.T) *model { m := running(t, app(), second); m.want(); return m },
			[]string{"app Stop", "second Stop", "app Remove", "second Remove"},
		},
		"a service left out": {
			func(t *testing.T) *model { m := running(t, app(), second); m.want(app()); return m },
			[]string{"second Stop", "second Remove"},
		},
		"nothing to do": {
			func(t *testing.T) *model { return running(t, app(), second) },
			[]string{},
		},
		"nothing to do for a new agent": {
			func(t *testing.T) *model { m := running(t, app(), second); m.restartAgent(); return m },
			[]string{},
		},
		"after a power cut all start in order": {
			func(t *testing.T) *model {
				m := running(t, app(policy(score.RestartNever)), second)
				for i := range m.containers {
					m.containers[i].State = reconcile.Exited
				}
				m.restartAgent()
				return m
			},
			[]string{"app Examine", "second Examine", "app Start", "second Start"},
		},
		"after a power cut the old one goes on until the new one is ready": {
			func(t *testing.T) *model { return cutOff(t, reconcile.Exited) },
			[]string{"app Start", "app Pull", "app Create", "app Stop", "app Start"},
		},
		"after a power cut of which podman says nothing": {
			func(t *testing.T) *model { return cutOff(t, reconcile.Created) },
			[]string{"app Start", "app Pull", "app Create", "app Stop", "app Start"},
		},
		"after a power cut the new one starts when it is ready": {
			func(t *testing.T) *model {
				m := running(t, app())
				m.want(app(image("app:2")))
				m.next(nil) // pull
				m.next(nil) // create
				m.next(nil)
				m.containers[0].State = reconcile.Exited
				m.restartAgent()
				return m
			},
			[]string{"app Start"},
		},
		"paused by somebody else": {
			func(t *testing.T) *model {
				m := running(t, app())
				m.containers[0].State = reconcile.Paused
				return m
			},
			[]string{},
		},
		"paused and replaced": {
			func(t *testing.T) *model {
				m := running(t, app())
				m.containers[0].State = reconcile.Paused
				m.want(app(image("app:2")))
				return m
			},
			[]string{"app Pull", "app Create", "app Remove", "app Start"},
		},
		"a clone with the same labels": {
			func(t *testing.T) *model {
				m := running(t, app())
				clone := m.containers[0]
				clone.ID, clone.Created = "clone", m.now
				m.containers = append([]reconcile.Container{clone}, m.containers...)
				return m
			},
			[]string{"app Stop", "app Remove"},
		},
		"a completed job stays, and runs again when wanted again": {
			func(t *testing.T) *model {
				m := running(t, app(policy(score.RestartNever)))
				m.end(0, 0)
				m.now = m.now.Add(time.Second)
				m.want(app(image("app:2")))
				m.next(nil) // pull
				m.next(nil) // create; then the user has another idea
				m.next(nil)
				m.want(app(policy(score.RestartNever)))
				m.now = m.now.Add(time.Second)
				return m
			},
			[]string{"app Stop", "app Examine", "app Start"},
		},
	} {
		t.Run(reason, func(t *testing.T) {
			m := c.begin(t)
			if diff := cmp.Diff(c.want, m.steps()); diff != "" || m.broken != "" {
				t.Errorf("%s (- want, + got):\n%s", m.broken, diff)
			}
			if slices.ContainsFunc(m.containers, func(c reconcile.Container) bool { return c.ID == "clone" }) {
				t.Error("the clone took the original's place")
			}
		})
	}
}

func TestFailuresBackOffAndKeepTheOldOne(t *testing.T) {
	for action, reason := range map[reconcile.Action]string{
		reconcile.Pull: reconcile.ReasonImagePullFailed, reconcile.Create: reconcile.ReasonVolumeMissing, reconcile.Start: reconcile.ReasonPortInUse,
	} {
		t.Run(string(action), func(t *testing.T) {
			m := running(t, app())
			m.want(app(image("app:2")))
			for begun := m.next(nil); begun[0] != "app "+string(action); begun = m.next(nil) {
				if len(begun) != 1 {
					t.Fatalf("begun %q", begun)
				}
			}
			waits := []time.Duration{}
			for range 12 {
				if begun := m.next(&reconcile.Failure{Reason: reason, Message: "because"}); len(begun) > 0 {
					t.Fatalf("begun %q at once", begun)
				}
				p := m.plan()
				if p.State.Phase != wire.PhaseFailed || p.State.Reason != reason || p.State.Message != "because" {
					t.Errorf("state %+v", p.State)
				}
				if kept := len(p.State.Containers) == 1; kept != (action != reconcile.Start) {
					t.Errorf("containers %v", p.State.Containers)
				}
				waits = append(waits, p.Wake.Sub(m.now))
				m.now = p.Wake
				if begun := m.next(nil); !cmp.Equal(begun, []string{"app " + string(action)}) {
					t.Fatalf("begun %q", begun)
				}
			}
			if waits[0] != 500*time.Millisecond || waits[1] != time.Second || waits[11] != 150*time.Second {
				t.Errorf("waits %v", waits)
			}
			m.settle()
			if m.broken != "" || len(m.containers) != 1 {
				t.Errorf("%s %+v", m.broken, m.containers)
			}
		})
	}
}

// podman may hold the port of a start that failed: why it failed is told all the time.
func TestPortOfAFailedStart(t *testing.T) {
	m := newModel()
	m.want(app())
	m.plan()
	m.next(nil) // pull
	m.next(nil) // create
	for _, c := range []struct{ fails, says string }{
		{reconcile.ReasonPortInUse, reconcile.ReasonPortInUse},
		{reconcile.ReasonPortInUse, reconcile.ReasonPortInUse},
		{reconcile.ReasonCommandNotFound, reconcile.ReasonCommandNotFound},
		{reconcile.ReasonPortInUse, reconcile.ReasonCommandNotFound},
		{reconcile.ReasonPodmanTimeout, reconcile.ReasonPodmanTimeout},
		{reconcile.ReasonPortInUse, reconcile.ReasonPortInUse},
	} {
		m.next(&reconcile.Failure{Reason: c.fails})
		if got := m.state(); got != "Failed/"+c.says {
			t.Errorf("after %s: %s", c.fails, got)
		}
		m.now = m.plan().Wake
		m.plan()
	}
}

func TestImageRemovedMeanwhileIsPulledAgain(t *testing.T) {
	m := newModel()
	m.want(app())
	m.plan()
	m.next(nil) // pulled
	if begun := m.next(&reconcile.Failure{Reason: reconcile.ReasonImageMissing}); !cmp.Equal(begun, []string{"app Pull"}) {
		t.Errorf("begun %q", begun)
	}
}

func TestPullThatNobodyWantsAnyMoreIsCancelled(t *testing.T) {
	m := newModel()
	m.want(app(image("slow:1")))
	m.plan()
	m.want(app(image("app:2")))
	if p := m.plan(); len(p.Cancel) != 1 || p.Cancel[0].Service != "app" {
		t.Errorf("cancel %v", p.Cancel)
	}
	// The outcome says nothing of the new image.
	if begun := m.next(&reconcile.Failure{Reason: reconcile.ReasonImagePullFailed}); !cmp.Equal(begun, []string{"app Pull"}) {
		t.Errorf("begun %q", begun)
	}
}

// state is that of a plan made now.
func (m *model) state() string {
	p := m.plan()
	if p.State == nil {
		return "unknown"
	}
	return string(p.State.Phase) + "/" + p.State.Reason
}

func TestPodmanThatIsAwayForAMomentIsNoFailure(t *testing.T) {
	m := newModel()
	m.want(app())
	m.plan()
	states := []string{}
	for range 3 {
		m.next(&reconcile.Failure{Reason: reconcile.ReasonPodmanUnavailable})
		states = append(states, m.state())
		m.now = m.now.Add(time.Hour)
		m.plan()
	}
	if diff := cmp.Diff([]string{"Pending/Pulling", "Pending/Pulling", "Failed/PodmanUnavailable"}, states); diff != "" {
		t.Errorf("states (- want, + got):\n%s", diff)
	}
}

func TestCrashLoop(t *testing.T) {
	m := running(t, app())
	states, waits := []string{}, []time.Duration{}
	for range 5 {
		m.end(0, 7)
		m.plan()
		m.next(nil) // examined
		states = append(states, m.state())
		for from := m.now; len(m.busy) == 0; {
			if p := m.plan(); len(p.Steps) == 0 {
				m.now = p.Wake
				waits = append(waits, m.now.Sub(from))
			}
		}
		m.next(nil) // started
	}
	want := []string{"Pending/Restarting", "Pending/Restarting", "Failed/CrashLoop", "Failed/CrashLoop", "Failed/CrashLoop"}
	if diff := cmp.Diff(want, states); diff != "" {
		t.Errorf("states (- want, + got):\n%s", diff)
	}
	if diff := cmp.Diff([]time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}, waits); diff != "" {
		t.Errorf("waits (- want, + got):\n%s", diff)
	}
	if p := m.plan(); p.State.Reason != reconcile.ReasonCrashLoop || !strings.Contains(p.State.Message, "exit code 7, restarted 5 times") {
		t.Errorf("running again for a moment: %+v", p.State)
	}
	for after, want := range map[time.Duration]string{15 * time.Second: "Failed/CrashLoop", 17 * time.Second: "Succeeded/Running"} {
		later := *m
		later.now = m.now.Add(after)
		if got := later.state(); got != want {
			t.Errorf("after %s: %s, want %s", after, got, want)
		}
	}
	m.now = m.now.Add(10 * time.Minute)
	m.plan()
	m.end(0, 7)
	m.plan()
	if got := m.next(nil); !cmp.Equal(got, []string{"app Start"}) {
		t.Errorf("after running for long: %q, want a start at once", got)
	}
}

func TestExitStates(t *testing.T) {
	for reason, c := range map[string]struct {
		policy score.RestartPolicy
		code   int
		exit   reconcile.Exit
		want   string
		says   string
	}{
		"a job that is done":    {score.RestartNever, 0, reconcile.Exit{}, "Succeeded/Completed", ""},
		"a job that failed":     {score.RestartNever, 2, reconcile.Exit{Tail: "no disk"}, "Failed/Exited", "exit code 2: no disk"},
		"done, on failure":      {score.RestartOnFailure, 0, reconcile.Exit{}, "Succeeded/Completed", ""},
		"failed, on failure":    {score.RestartOnFailure, 1, reconcile.Exit{}, "Pending/Restarting", "exit code 1"},
		"ended, always":         {score.RestartAlways, 0, reconcile.Exit{}, "Pending/Restarting", "exit code 0"},
		"out of memory":         {score.RestartNever, 137, reconcile.Exit{OOMKilled: true}, "Failed/OOMKilled", "out of memory, exit code 137"},
		"out of memory, always": {score.RestartAlways, 137, reconcile.Exit{OOMKilled: true}, "Pending/OOMKilled", "out of memory"},
	} {
		m := running(t, app(policy(c.policy)))
		m.end(0, c.code)
		m.plan()
		step := m.busy["app"]
		delete(m.busy, "app")
		m.memory["app"] = m.memory["app"].After(step, reconcile.Outcome{Exit: c.exit}, m.now)
		p := m.plan()
		if got := string(p.State.Phase) + "/" + p.State.Reason; got != c.want || !strings.Contains(p.State.Message, c.says) {
			t.Errorf("%s: %s %q, want %s with %q", reason, got, p.State.Message, c.want, c.says)
		}
	}
}

func TestHealthStates(t *testing.T) {
	m := newModel()
	m.unhealthy = true
	m.want(app(checked))
	m.steps()
	begin, states := m.now, map[time.Duration]string{}
	for m.now.Sub(begin) < time.Minute {
		m.steps()
		states[m.now.Sub(begin).Truncate(time.Second)] = m.state()
		m.now = m.now.Add(time.Second)
	}
	// A failure counts from 30 s on: after the start period and one interval.
	for at, want := range map[time.Duration]string{0: "Pending/HealthCheckPending", 29 * time.Second: "Pending/HealthCheckPending", 59 * time.Second: "Failed/Unhealthy"} {
		if states[at] != want {
			t.Errorf("after %s: %s, want %s", at, states[at], want)
		}
	}
	m.unhealthy = false
	m.now = m.now.Add(10 * time.Second)
	m.steps()
	if got := m.state(); got != "Succeeded/Running" {
		t.Errorf("healthy again: %s", got)
	}
	m.unhealthy = true
	m.now = m.now.Add(10 * time.Second)
	m.steps()
	if got := m.state(); got != "Succeeded/Running" {
		t.Errorf("one failure of two: %s", got)
	}
	if p := m.plan(); p.Wake.Sub(m.now) != 10*time.Second {
		t.Errorf("the next check comes after %s, want the interval", p.Wake.Sub(m.now))
	}
	m.restartAgent()
	if got := m.state(); got != "unknown" {
		t.Errorf("a new agent that did not check yet: %s", got)
	}
}

func TestLastVersionIsKeptUntilTheNewOneRuns(t *testing.T) {
	m := running(t, app())
	m.unhealthy = true
	for _, name := range []string{"app:2", "app:3"} {
		m.want(app(image(name), checked))
		for range 20 {
			m.steps()
			m.now = m.now.Add(5 * time.Second)
		}
	}
	if len(m.containers) != 2 {
		t.Errorf("%d containers, want the unhealthy one and the one before: %+v", len(m.containers), m.containers)
	}
	m.unhealthy = false
	m.settle()
	if len(m.containers) != 1 || m.broken != "" {
		t.Errorf("%s %+v", m.broken, m.containers)
	}
}

func TestScoreThatCannotBeReadTouchesNothing(t *testing.T) {
	m := running(t, app())
	w := reconcile.Want(score.DigestOf([]byte(`{"okdApplyV0":{}}`)), []byte(`{"okdApplyV0":{}}`))
	m.wanted = &w
	p := m.plan()
	if len(p.Steps) > 0 || p.State.Reason != reconcile.ReasonUnsupportedScore || p.State.Phase != wire.PhaseFailed || p.State.Digest != w.Digest {
		t.Errorf("plan %+v, state %+v", p, p.State)
	}
}

func TestWorstServiceSpeaks(t *testing.T) {
	job := app(func(svc *score.Service) { svc.Name, svc.RestartPolicy = "job", score.RestartNever })
	m := running(t, app(), job)
	m.end(1, 0)
	m.steps()
	p := m.plan()
	if got := m.state(); got != "Succeeded/Running" || len(p.State.Containers) != 1 {
		t.Errorf("one runs, one is done: %s %v", got, p.State.Containers)
	}
	m = running(t, app(), job)
	m.end(1, 9)
	m.steps()
	if p := m.plan(); p.State.Reason != reconcile.ReasonExited || !strings.HasPrefix(p.State.Message, "job: exit code 9") {
		t.Errorf("one failed: %+v", p.State)
	}
}
