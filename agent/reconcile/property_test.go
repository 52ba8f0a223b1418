package reconcile_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// someServices draws one to three services, each in one of three versions.
func someServices(t *rapid.T) []score.Service {
	var services []score.Service
	for _, name := range []string{"a", "b", "c"} {
		if name != "a" && !rapid.Bool().Draw(t, "has "+name) {
			continue
		}
		svc := score.Service{Name: name, Image: fmt.Sprint("registry.example/app:", rapid.IntRange(1, 3).Draw(t, "version"))}
		svc.RestartPolicy = rapid.SampledFrom([]score.RestartPolicy{"", score.RestartOnFailure, score.RestartNever}).Draw(t, "policy")
		if rapid.Bool().Draw(t, "check") {
			svc.HealthCheck = &score.HealthCheck{Command: []string{"/check"}}
		}
		if rapid.Bool().Draw(t, "secret") {
			svc.Secrets = []score.Secret{{Name: "db", Key: "user", File: "/user"}, {Name: "db", Key: "password", Env: "PASSWORD"}}
		}
		services = append(services, svc)
	}
	return services
}

// TestEveryHistoryEndsWhereItShould plays random histories: wishes change,
// containers die, steps fail, finish late, or take effect while the agent is
// killed. No step on the way may break a rule, and in the end exactly what is
// wanted is there and nothing is left to do.
func TestEveryHistoryEndsWhereItShould(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel()
		m.pulls = reconcile.Pulls{Device: "pi-1", Window: rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(t, "window")}
		m.want(someServices(t)...)
		checkRules := func() {
			if m.broken != "" {
				t.Fatal(m.broken)
			}
		}
		t.Repeat(afterProgress(m, map[string]func(*rapid.T){
			"fail": func(t *rapid.T) {
				if len(m.busy) > 0 {
					m.finish(rapid.SampledFrom(m.names()).Draw(t, "step"), &reconcile.Failure{
						Reason:  rapid.SampledFrom([]string{reconcile.ReasonPodmanUnavailable, reconcile.ReasonPortInUse, reconcile.ReasonImageMissing}).Draw(t, "reason"),
						Message: "no",
					})
				}
			},
			"kill agent in a step": func(t *rapid.T) {
				if names := m.names(); len(names) > 0 && rapid.Bool().Draw(t, "took effect") {
					_ = m.effect(m.busy[rapid.SampledFrom(names).Draw(t, "step")])
				}
				m.restartAgent()
			},
			"change wish": func(t *rapid.T) { m.want(someServices(t)...) },
			"delete":      func(*rapid.T) { m.want() },
			"time passes": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 900).Draw(t, "seconds")) * time.Second)
			},
			"container ends": func(t *rapid.T) { someContainer(t, m, func(i int) { m.end(i, rapid.IntRange(0, 1).Draw(t, "code")) }) },
			"power cut": func(t *rapid.T) {
				says := rapid.SampledFrom([]reconcile.ContainerState{reconcile.Exited, reconcile.Created}).Draw(t, "podman says")
				for i, c := range m.containers {
					if c.State != reconcile.Created {
						m.containers[i].State = says // and no time of its end
					}
				}
				m.restartAgent()
			},
			"stop hangs": func(t *rapid.T) { someContainer(t, m, func(i int) { m.containers[i].State = reconcile.Stopping }) },
			"stop cut": func(t *rapid.T) {
				someContainer(t, m, func(i int) { m.end(i, 143); m.containers[i].State = reconcile.Releasing })
				m.restartAgent()
			},
			"removal cut": func(t *rapid.T) {
				someContainer(t, m, func(i int) { m.end(i, 0); m.containers[i].State = reconcile.Broken })
			},
			"secret": func(t *rapid.T) {
				m.secrets = someSecrets(rapid.SampledFrom([]reconcile.SecretVersion{"", "1", "2"}).Draw(t, "version"),
					rapid.SampledFrom([]string{"", reconcile.ReasonSecretUnavailable, reconcile.ReasonSecretMissing}).Draw(t, "trouble"))
			},
			"sick":  func(*rapid.T) { m.unhealthy = true },
			"well":  func(*rapid.T) { m.unhealthy = false },
			"hold":  func(*rapid.T) { m.hold = &hold.Hold{Until: m.now.Add(time.Hour), By: wire.HeldByDevice} },
			"go on": func(*rapid.T) { m.hold = nil },
			"":      func(*rapid.T) { checkRules() },
		}))
		m.hold, m.unhealthy, m.secrets = nil, false, someSecrets("3", "")
		p, settled := m.settle()
		checkRules()
		if !settled {
			t.Fatalf("does not come to rest: %+v\n%+v", p, m.containers)
		}
		checkEnd(t, m, p)
	})
}

// afterProgress has each kind of trouble come after some planning, and after
// some of the steps have finished, in any order.
func afterProgress(m *model, trouble map[string]func(*rapid.T)) map[string]func(*rapid.T) {
	for name, happen := range trouble {
		if name == "" {
			continue
		}
		trouble[name] = func(t *rapid.T) {
			for range rapid.IntRange(0, 6).Draw(t, "rounds") {
				m.plan()
				if len(m.busy) > 0 {
					m.finish(rapid.SampledFrom(m.names()).Draw(t, "step"), nil)
				}
				m.now = m.now.Add(time.Second)
			}
			happen(t)
			m.plan()
		}
	}
	return trouble
}

// someContainer does something to a running container, when there is one.
func someContainer(t *rapid.T, m *model, do func(i int)) {
	var running []int
	for i, c := range m.containers {
		if c.State == reconcile.Running {
			running = append(running, i)
		}
	}
	if len(running) > 0 {
		do(rapid.SampledFrom(running).Draw(t, "container"))
	}
}

// someSecrets are the secrets of someServices in that version, with that trouble
// about one of them.
func someSecrets(version reconcile.SecretVersion, trouble string) map[reconcile.SecretKey]reconcile.Secret {
	db := secret.Ref{Deployment: deployment, Name: "db"}
	password := reconcile.Secret{Version: version}
	if trouble != "" {
		password.Err = &reconcile.Failure{Reason: trouble, Message: trouble}
	}
	return map[reconcile.SecretKey]reconcile.Secret{{Ref: db, Key: "user"}: {Version: version}, {Ref: db, Key: "password"}: password}
}

// over reports whether c has ended, also when podman was cut off before it noted that.
func over(c reconcile.Container) bool {
	cutOff := c.State == reconcile.Created && c.Exited.Before(c.Started)
	return c.State == reconcile.Exited || c.State == reconcile.Releasing || cutOff
}

func checkEnd(t *rapid.T, m *model, p reconcile.Plan) {
	if len(p.Steps) > 0 {
		t.Fatalf("steps at rest: %+v", p.Steps)
	}
	if m.wanted == nil {
		if len(m.containers) > 0 || !p.Gone {
			t.Fatalf("gone is %v with %+v", p.Gone, m.containers)
		}
		return
	}
	left, ended := len(m.containers), false
	for _, svc := range m.wanted.Services {
		svc = svc.Supplied(deployment, m.secrets)
		i := slices.IndexFunc(m.containers, func(c reconcile.Container) bool { return c.Digest == svc.Digest })
		if i < 0 {
			t.Fatalf("nothing runs for %+v", svc)
		}
		c, policy := m.containers[i], svc.Spec.RestartPolicy
		mayEnd := policy == score.RestartNever || policy == score.RestartOnFailure && c.ExitCode == 0
		if c.State != reconcile.Running && (!mayEnd || !over(c)) {
			t.Fatalf("%+v is %+v", svc, c)
		}
		if m.shows[c.ID] && len(svc.Spec.Secrets) > 0 {
			t.Fatalf("%+v shows a value", c)
		}
		left--
		if over(c) && c.ExitCode != 0 {
			ended = true
			// The version before a failed one is kept.
			if slices.ContainsFunc(m.containers, func(o reconcile.Container) bool {
				return o.Key == c.Key && o.ID != c.ID && over(o)
			}) {
				left--
			}
		}
	}
	if left != 0 {
		t.Fatalf("%d containers too many: %+v", left, m.containers)
	}
	want := wire.PhaseSucceeded
	if ended {
		want = wire.PhaseFailed
	}
	if p.State == nil || p.State.Phase != want {
		t.Fatalf("state %+v, want %s", p.State, want)
	}
}
