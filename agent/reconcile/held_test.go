package reconcile_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

func (m *model) held() { m.hold = &hold.Hold{Until: m.now.Add(time.Hour), By: wire.HeldByDevice} }

// cut cuts the power while the containers run.
func (m *model) cut() {
	for i := range m.containers {
		if m.containers[i].State == reconcile.Running {
			m.containers[i].State = reconcile.Exited
		}
	}
	m.restartAgent()
}

func TestHold(t *testing.T) {
	v2 := app(image("app:2"))
	for reason, c := range map[string]struct {
		begin func(t *testing.T) *model
		steps []string
		state string
	}{
		"nothing was there": {
			func(*testing.T) *model { m := newModel(); m.want(app()); return m },
			nil, "Pending/Held",
		},
		"what is wanted runs": {
			func(t *testing.T) *model { return running(t, app()) },
			nil, "Succeeded/Running",
		},
		"another version is wanted": {
			func(t *testing.T) *model { m := running(t, app()); m.want(v2); return m },
			nil, "Pending/Held",
		},
		"what runs failed while another version is wanted": {
			func(t *testing.T) *model { m := running(t, app()); m.want(v2); m.end(0, 7); return m },
			[]string{"app Examine", "app Start"}, "Pending/Held",
		},
		"the power was cut while another version is wanted": {
			func(t *testing.T) *model { m := running(t, app()); m.want(v2); m.cut(); return m },
			[]string{"app Examine", "app Start"}, "Pending/Held",
		},
		"a job that is done is not run again": {
			func(t *testing.T) *model {
				m := running(t, app(policy(score.RestartNever)))
				m.end(0, 0)
				m.want(app(image("app:2"), policy(score.RestartNever)))
				return m
			},
			[]string{"app Examine"}, "Pending/Held",
		},
		"what is not wanted any more failed": {
			func(t *testing.T) *model { m := running(t, app()); m.want(); m.end(0, 7); return m },
			[]string{"app Examine", "app Start"}, "unknown",
		},
		"what is not wanted any more has ended": {
			func(t *testing.T) *model { m := running(t, app()); m.want(); m.end(0, 0); return m },
			[]string{"app Examine"}, "unknown",
		},
		"half of a replacement is done": {
			func(t *testing.T) *model {
				m := running(t, app())
				m.want(v2)
				m.plan()
				m.next(nil) // pulled
				m.next(nil) // created
				m.next(nil) // stopped
				m.busy = map[string]reconcile.Step{}
				return m
			},
			[]string{"app Examine", "app Start"}, "Pending/Held",
		},
		"a container that nobody started": {
			func(t *testing.T) *model {
				m := newModel()
				m.want(app())
				m.plan()
				m.next(nil)
				m.next(nil)
				m.busy = map[string]reconcile.Step{}
				return m
			},
			nil, "Pending/Held",
		},
	} {
		t.Run(reason, func(t *testing.T) {
			m := c.begin(t)
			m.held()
			if diff := cmp.Diff(c.steps, slices.Clip(append([]string(nil), m.steps()...))); diff != "" || m.broken != "" {
				t.Errorf("%s (- want, + got):\n%s", m.broken, diff)
			}
			m.now = m.now.Add(time.Minute)
			if got := m.state(); got != c.state {
				t.Errorf("state %s, want %s", got, c.state)
			}
			m.hold = nil
			if p, settled := m.settle(); !settled || m.broken != "" || m.wanted != nil && p.State.Phase != wire.PhaseSucceeded {
				t.Errorf("after the hold: %s %+v", m.broken, p)
			}
		})
	}
}

func TestHoldCancelsAPull(t *testing.T) {
	m := newModel()
	m.want(app())
	m.plan()
	m.held()
	if p := m.plan(); len(p.Cancel) != 1 || p.State.Message != m.hold.String() {
		t.Errorf("cancel %v, state %+v", p.Cancel, p.State)
	}
}

// What runs in place of the wanted version shows no value either, also where that has no
// secret.
func TestOldVersionIsConcealed(t *testing.T) {
	for reason, held := range map[string]bool{"until the new one is here": false, "while it is held": true} {
		m := newModel()
		m.secrets = someSecrets("1", "")
		m.want(app(func(svc *score.Service) {
			svc.Secrets = []score.Secret{{Name: "db", Key: "password", Env: "PASSWORD"}}
		}))
		if _, settled := m.settle(); !settled || len(m.shows) > 0 {
			t.Fatalf("%s: shows %v", reason, m.shows)
		}
		m.want(app(image("app:2")))
		m.plan()
		m.cut()
		if held {
			m.held()
		}
		concealed := func() bool { return m.containers[0].State == reconcile.Running && len(m.shows) == 0 }
		for range 6 {
			if !concealed() {
				m.next(nil)
			}
		}
		if !concealed() {
			t.Errorf("%s: %+v shows %v", reason, m.containers, m.shows)
		}
	}
}

// A device that lost its power while it pulled, and boots with no network, runs what
// it ran.
func TestOldVersionRunsUntilTheNewOneIsHere(t *testing.T) {
	m := running(t, app())
	m.want(app(image("app:2")))
	m.plan() // pulls
	m.cut()
	if begun := m.next(nil); !cmp.Equal(begun, []string{"app Start"}) {
		t.Fatalf("begun %q", begun)
	}
	if begun := m.next(nil); !cmp.Equal(begun, []string{"app Pull"}) || m.containers[0].State != reconcile.Running {
		t.Fatalf("begun %q with %+v", begun, m.containers)
	}
	m.next(&reconcile.Failure{Reason: reconcile.ReasonImagePullFailed, Message: "no network"})
	if p := m.plan(); p.State.Reason != reconcile.ReasonImagePullFailed || len(p.State.Containers) != 1 {
		t.Errorf("state %+v", p.State)
	}
	// One that cannot be started again holds up nothing.
	m.cut()
	m.plan()
	if begun := m.next(&reconcile.Failure{Reason: reconcile.ReasonPortInUse}); !cmp.Equal(begun, []string{"app Pull"}) {
		t.Errorf("begun %q", begun)
	}
	if _, settled := m.settle(); !settled || m.broken != "" || len(m.containers) != 1 {
		t.Errorf("%s %+v", m.broken, m.containers)
	}
}
