package reconcile

import (
	"time"

	"github.com/nationtech/harmony-fleet/agent/backoff"
	"github.com/nationtech/harmony-fleet/apis/score"
)

const (
	firstDelay = time.Second
	maxDelay   = 5 * time.Minute
	// resetAfter is how long a container must run for its restarts to be forgotten.
	resetAfter = 10 * time.Minute
	// settleTime is how long a container must run before it counts as running:
	// most of what crashes at start does so within it.
	settleTime = 2 * time.Second
	// concealDelay is the wait after values could not be struck out.
	concealDelay = time.Minute
	// unreachableAttempts is how many tries in a row must miss podman before that
	// is worth telling: its service may just be restarting.
	unreachableAttempts = 3
)

// Memory is what must be known of a service beyond what podman tells. It is lost
// with the process, which costs no more than a new start of the back-off.
type Memory struct {
	// digest of the wanted service that all of this is about; "" for none.
	digest score.Digest
	pulled bool
	// turn is from when on the image may be fetched; zero while that is not known.
	turn time.Time
	// revived says that a container of another version was started again, or that it
	// was tried.
	revived bool

	// failed is the action that failed last, why, how often in a row, and when it
	// may be tried again.
	failed   Action
	failure  *Failure
	attempts int
	retry    time.Time

	// life is the last one seen, which runs since then and was examined after.
	life     life
	since    time.Time
	examined bool
	health   health
	// concealed says that the values of secrets in the environment of this life are
	// struck out, and conceal when that is tried again.
	concealed bool
	conceal   time.Time

	// restarts of the container in a row, how it ended the last time, and when it
	// may be started again.
	restarts int
	ended    ending
	restart  time.Time
}

// ending is how a container ended.
type ending struct {
	Exit
	code int
}

// life is one run of one container.
type life struct {
	container string
	started   int64
}

// health is what the checks of one life showed.
type health struct {
	checked, passed bool
	// failures in a row that counted, and all tries before the first success.
	failures, tries int
	output          string
	next            time.Time
	countFrom       time.Time
}

// about starts over when something else is wanted.
func (m Memory) about(digest score.Digest) Memory {
	if m.digest != digest {
		return Memory{digest: digest}
	}
	return m
}

// observe takes in what the container does that is watched.
func (m Memory) observe(t *Container, now time.Time) Memory {
	if t == nil {
		return m
	}
	if seen := (life{t.ID, t.Started.Unix()}); seen != m.life {
		if seen.container != m.life.container {
			m.restarts = 0
		}
		m.life, m.examined, m.health = seen, false, health{}
		m.concealed, m.conceal = false, time.Time{}
		m.since = t.Started
		if m.since.After(now) { // the device's clock was set back
			m.since = now
		}
	}
	if t.State == Running && now.Sub(m.since) >= resetAfter {
		m.restarts = 0
	}
	return m
}

// After takes in what a step brought. The outcome of a step for something that
// is not wanted any more changes nothing.
func (m Memory) After(step Step, outcome Outcome, now time.Time) Memory {
	if step.Service.Digest != m.digest {
		return m
	}
	if step.Action == Start && step.Container.Digest != step.Service.Digest {
		m.revived, m.concealed, m.conceal = true, false, time.Time{}
		return m
	}
	seen := life{step.Container.ID, step.Container.Started.Unix()}
	if step.Action == Start {
		m.concealed, m.conceal = false, time.Time{} // also when it failed
	}
	switch {
	case step.Action == Check && seen == m.life:
		m.health = m.health.after(step, outcome, m.since, now)
		return m
	case step.Action == Examine && seen == m.life:
		// Not knowing why it ended is no reason not to start it again.
		m.examined = true
		m.ended = ending{outcome.Exit, step.Container.ExitCode}
		m.restart = now.Add(delay(m.restarts))
		return m
	case step.Action == Conceal && seen == m.life:
		m.concealed, m.conceal = outcome.Err == nil, now.Add(concealDelay)
		return m
	case step.Action == Check || step.Action == Examine || step.Action == Conceal:
		return m // of a life that is over
	case outcome.Absent:
		m.turn = now.Add(step.Delay)
		return m
	case outcome.Err != nil:
		return m.afterFailure(step, outcome, now)
	}
	if m.failed == step.Action || step.Action == Start {
		m.failed, m.failure, m.attempts = "", nil, 0
	}
	if step.Action == Pull {
		m.pulled = true
	}
	if step.Action == Start {
		if step.Container.State == Exited {
			m.restarts++
		}
		// It is a new life also when podman, which tells whole seconds, gives it the
		// same start as the last.
		m.life = life{container: step.Container.ID}
	}
	return m
}

func (m Memory) afterFailure(step Step, outcome Outcome, now time.Time) Memory {
	if m.failed != step.Action {
		m.failed, m.failure, m.attempts = step.Action, nil, 0
	}
	m.attempts++
	wait := delay(m.attempts)
	m.retry = now.Add(wait/2 + time.Duration(float64(wait/2)*outcome.Jitter))
	// podman 4.3 may hold the port of a start that failed for another reason until its
	// memory is collected: that is no news.
	ownPort := step.Action == Start && outcome.Err.Reason == ReasonPortInUse && m.failure != nil && m.failure.answered()
	if !ownPort && (outcome.Err.Reason != ReasonPodmanUnavailable || m.attempts >= unreachableAttempts) {
		m.failure = outcome.Err
	}
	if outcome.Err.Reason == ReasonImageMissing {
		m.pulled = false // somebody removed it since
	}
	return m
}

// answered reports whether podman said that itself.
func (f *Failure) answered() bool {
	return f.Reason != ReasonPodmanUnavailable && f.Reason != ReasonPodmanTimeout
}

// after takes in one check. Before the first success a check comes sooner than
// its interval, so that a start is noticed soon, but a failure counts no sooner.
func (h health) after(step Step, outcome Outcome, since, now time.Time) health {
	spec := step.Service.Spec.HealthCheck
	interval := secondsOr(spec.IntervalSeconds, 10)
	if !h.checked {
		h.countFrom = since.Add(time.Duration(spec.StartPeriodSeconds)*time.Second + interval)
	}
	result := outcome.Health
	if outcome.Err != nil {
		if outcome.Err.Reason == ReasonPodmanUnavailable {
			h.next = now.Add(interval)
			return h
		}
		result = Health{Output: outcome.Err.Message}
	}
	h.checked = true
	h.next = now.Add(interval)
	if result.OK {
		h.passed, h.failures, h.output = true, 0, ""
		return h
	}
	h.output = result.Output
	if !now.Before(h.countFrom) {
		h.failures++
		h.countFrom = now.Add(interval)
	}
	h.tries++
	switch {
	case result.TimedOut:
		h.next = now.Add(max(interval, delay(h.tries))) // the command may still be there
	case !h.passed:
		h.next = now.Add(min(interval, delay(h.tries)))
	}
	return h
}

// delay is the wait before the nth try, 0 before the first.
func delay(n int) time.Duration {
	if n == 0 {
		return 0
	}
	return backoff.Doubled(n-1, firstDelay, maxDelay)
}

func secondsOr(seconds, or int32) time.Duration {
	if seconds == 0 {
		seconds = or
	}
	return time.Duration(seconds) * time.Second
}
