// Package token gets the tokens by which an OpenID provider says which device
// this is, and replaces each before it expires. An outage of the provider takes
// none away: the last token is handed out until there is another, also after it
// has expired, because the broker's callout decides how long that is good.
//
// It keeps a token in memory alone, and never logs or writes a token, a key or a
// secret. Whether a token is good it never decides: the callout does.
package token

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/nationtech/harmony-fleet/agent/backoff"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

const (
	// pause is the shortest time between two questions to the provider, however
	// often the device connects.
	pause = 3 * time.Second
	// retryFirst and retryMost bound the wait after a failed renewal, which doubles
	// from one to the other.
	retryFirst, retryMost = time.Second, 5 * time.Minute
	// patience is how long a login waits for a token when it has another to show.
	patience = 5 * time.Second
	// doubtMost is how old a token may have to be at most for the broker's refusal
	// to have it replaced.
	doubtMost = 15 * time.Minute
	// leastSession is what a token must be good for at a login: the callout begins
	// no session that would end within 5 s.
	leastSession = 6 * time.Second
	// clockTolerance is how far the clocks of device and provider may be apart.
	clockTolerance = time.Minute
)

// Options of a Source; all are needed.
type Options struct {
	// Credentials of a type that is FromProvider.
	Credentials v1alpha1.Credentials
	// Now is the device's clock. It is for what is signed alone: the age of a token
	// is counted, because clocks are set.
	Now func() time.Time
	Log logr.Logger
}

// Source has the tokens of one device. Its methods are safe for concurrent use.
type Source struct {
	options Options

	mu   sync.Mutex // held while asking: one question serves all who wait
	held held
	// ended is when the last question was answered, or not, and problem how it
	// failed.
	ended   time.Time
	problem error
	// told is the problem that was logged last.
	told string
	// refusals counts the tokens in a row that the broker refused.
	refusals int
	doubted  bool
	// offset is added to the device's clock to have the provider's.
	offset time.Duration
}

// held is a token. Its times are readings of a clock that nobody sets.
type held struct {
	token               string
	got, renew, expires time.Time
}

// New returns a Source that has asked for nothing yet.
func New(options Options) *Source { return &Source{options: options} }

// Token to log in with: the last one while it is good, and else one that is asked
// for now. While the provider does not answer it is the last one all the same.
func (s *Source) Token(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.held.token != "" && now.Before(s.held.renew) && s.held.expires.Sub(now) > leastSession && !s.replace(now) {
		return s.held.token, nil
	}
	err := s.problem
	if now.Sub(s.ended) > pause {
		wait := patience
		if s.held.token == "" {
			wait = questionTimeout
		}
		err = s.ask(ctx, wait)
	}
	if err == nil {
		return s.held.token, nil
	}
	var down outage
	useful := time.Now().Before(s.held.expires) || errors.As(err, &down)
	if s.held.token == "" || !useful || ctx.Err() != nil {
		return "", err
	}
	s.tell(err)
	return s.held.token, nil
}

// replace reports whether the broker's refusal is a reason to ask for another
// token. With each one that is refused too it is so less often: then it is not the
// token that is wrong.
func (s *Source) replace(now time.Time) bool {
	return s.doubted && now.Sub(s.held.got) > backoff.Doubled(s.refusals-1, pause, doubtMost)
}

// Refused tells that the broker did not take the token. It may have been revoked,
// or have expired while the device slept and counted no time.
func (s *Source) Refused(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token == s.held.token {
		s.doubted = true
		s.refusals++
	}
}

// Renewed waits, after a login with a token, until there is a fresher one; it is
// false when ctx ended first.
func (s *Source) Renewed(ctx context.Context, than string) bool {
	s.accepted(than)
	for failures := 0; ; {
		wait, there := s.due(than)
		if there {
			return true
		}
		if failures > 0 {
			bound := backoff.Doubled(failures-1, retryFirst, retryMost)
			wait = max(wait, bound/2+rand.N(bound/2))
		}
		if !backoff.Sleep(ctx, wait) {
			return false
		}
		if s.refresh(ctx) {
			failures = 0
		} else {
			failures++
		}
	}
}

func (s *Source) accepted(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token == s.held.token {
		s.doubted, s.refusals = false, 0
	}
}

// due is how long the token need not be replaced, or that it is.
func (s *Source) due(token string) (wait time.Duration, replaced bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	return max(s.held.renew.Sub(now), s.ended.Add(pause).Sub(now), 0), token != s.held.token
}

// refresh replaces the token, and reports whether it did.
func (s *Source) refresh(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.ask(ctx, questionTimeout)
	if err != nil && ctx.Err() == nil {
		s.tell(err)
	}
	return err == nil
}

// tell logs a problem that is not returned, once. It is called with mu.
func (s *Source) tell(err error) {
	if err.Error() != s.told {
		s.told = err.Error()
		s.options.Log.Error(err, "no fresh token, going on with the last one until there is")
	}
}

// ask gets a token within the time given. When the provider refuses what was
// signed with a wrong clock, it is asked once more, in its own time. It is called
// with mu.
func (s *Source) ask(ctx context.Context, within time.Duration) error {
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	begin := time.Now()
	q := question{credentials: s.options.Credentials, now: s.options.Now().Add(s.offset)}
	grant, err := q.ask(bounded)
	if err != nil && s.corrected(q) {
		begin = time.Now()
		q = question{credentials: s.options.Credentials, now: s.options.Now().Add(s.offset)}
		grant, err = q.ask(bounded)
	}
	if ctx.Err() != nil {
		return ctx.Err() // it tells nothing of the provider
	}
	s.ended, s.problem = time.Now(), err
	if err != nil {
		return err
	}
	// The life of a token is counted from before the question, and renewals are
	// spread, or a fleet that started together would renew together.
	renew := time.Duration((0.6 + 0.2*rand.Float64()) * float64(grant.life))
	s.held = held{token: grant.token, got: begin, renew: begin.Add(max(renew, pause)), expires: begin.Add(grant.life)}
	s.doubted = false
	if s.told != "" {
		s.told = ""
		s.options.Log.Info("the OpenID provider gives out tokens again")
	}
	return nil
}

// corrected takes over the provider's time when a refusal may be due to the
// device's clock.
func (s *Source) corrected(q question) bool {
	answered := q.answer.code != 0 && q.answer.code != http.StatusOK
	if !answered || !q.signs() || q.answer.date.IsZero() || apart(q.answer.date, q.now) <= clockTolerance {
		return false
	}
	local := s.options.Now()
	s.offset = q.answer.date.Sub(local)
	s.options.Log.Info("this device's clock is wrong, signing with the time of the OpenID provider",
		"clock", local.UTC().Format(time.RFC3339), "provider", q.answer.date.UTC().Format(time.RFC3339))
	return true
}

func apart(a, b time.Time) time.Duration { return a.Sub(b).Abs() }
