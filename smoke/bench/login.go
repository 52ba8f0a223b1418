package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

// Sizes of one round.
const (
	decisionCount = 1000 // and so many handshakes, and devices
	turns         = 4    // in which handshakes and decisions take place
	loginCount    = 500
	pacedCount    = 2000
)

// logins measures the callout's decisions against TLS handshakes, since a broker
// does one of each for a device that comes back; whichever is slower bounds how
// fast a fleet does. A decision is a whole one: the program fleet-callout hears an
// encrypted question over a real broker, checks a token that it has never seen,
// looks at the device's policy, and signs, encrypts and sends the answer.
//
// The callout is started anew in each round. The first questions find no policy
// in its memory, and each makes it read one from OpenBao, on the same cores; those
// after them find all. A fleet that comes back is the first case once 30 s are over,
// since a policy is read again then.
//
// The admission rate is that of whole logins: TLS, the broker's part and the
// callout's, and the client, all on the same cores and without anything that
// waits. At twice that rate the callout is asked at random moments.
func (b *bench) logins(ctx context.Context) error {
	w, err := b.newLoginWorld(ctx)
	if err != nil {
		return err
	}
	defer w.stop()
	if _, err := w.admit(ctx, 0); err != nil { // so that all later ones find the policies
		return err
	}
	for round := range rounds {
		if err := w.round(ctx, round+1); err != nil {
			return err
		}
	}
	b.add(row{what: "TLS 1.3 full handshakes, P-256, both sides", unit: "1/s", values: w.handshakes})
	b.add(row{what: "callout decisions, policies in memory", unit: "1/s", values: w.decisions})
	b.add(row{what: "callout decisions, each policy read from OpenBao", unit: "1/s", values: w.unread})
	b.add(row{what: "callout decisions over TLS handshakes", values: ratio(w.decisions, w.handshakes), atLeast: 1})
	b.add(row{what: "callout decisions over TLS handshakes, each policy read", values: ratio(w.unread, w.handshakes), atLeast: 1})
	b.add(row{what: "admission: logins through TLS and callout", unit: "1/s", values: w.admitted})
	b.add(row{what: "99th percentile of a decision at twice the admission rate", unit: "ms", values: w.late, atMost: 100})
	return nil
}

// loginWorld is all that the rounds need, and what they found.
type loginWorld struct {
	site       *site
	handshaker *handshaker
	// muted is the broker over which asker asks; secured is one that asks by
	// itself, and speaks TLS.
	muted, secured                          *broker.Process
	asker                                   *asker
	cold, warm, paced                       []question
	tokens                                  [][]string // of logins, by round
	handshakes, decisions, unread, admitted series
	late                                    series
	stops                                   []func()
}

func (w *loginWorld) stop() {
	for i := range w.stops {
		w.stops[len(w.stops)-1-i]()
	}
}

func (b *bench) newLoginWorld(ctx context.Context) (_ *loginWorld, err error) {
	w := &loginWorld{}
	defer func() {
		if err != nil {
			w.stop()
		}
	}()
	if w.handshaker, err = newHandshaker(); err != nil {
		return nil, err
	}
	if w.site, err = newSite(ctx, b.dir, decisionCount); err != nil {
		return nil, err
	}
	w.stops = append(w.stops, w.site.Stop)
	if w.muted, err = broker.StartProcess(ctx, broker.Options{Callout: true, Muted: true}); err != nil {
		return nil, err
	}
	w.stops = append(w.stops, w.muted.Stop)
	if w.secured, err = broker.StartProcess(ctx, broker.Options{Callout: true, TLS: true, LoginTimeout: loginTimeout}); err != nil {
		return nil, err
	}
	w.stops = append(w.stops, w.secured.Stop)
	if w.asker, err = newAsker(w.muted); err != nil {
		return nil, err
	}
	w.stops = append(w.stops, w.asker.nc.Close)
	secured, err := w.site.startCallout(ctx, w.secured.Callout())
	if err != nil {
		return nil, err
	}
	w.stops = append(w.stops, func() { secured.Stop(10 * time.Second) })
	return w, w.prepare()
}

// prepare makes all tokens and questions. Those of one round serve the next one
// too, in which the callout has seen none of them; those of logins do not.
func (w *loginWorld) prepare() error {
	all, err := w.asker.questions(w.site, 2*decisionCount+pacedCount, decisionCount)
	if err != nil {
		return err
	}
	w.cold, w.warm, w.paced = all[:decisionCount], all[decisionCount:2*decisionCount], all[2*decisionCount:]
	w.tokens = make([][]string, rounds+1)
	for round := range w.tokens {
		w.tokens[round] = make([]string, loginCount)
		if err := parallel(loginCount, func(i int) (err error) {
			w.tokens[round][i], err = w.site.token(i, len(all)+round)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// round measures each side once.
func (w *loginWorld) round(ctx context.Context, n int) error {
	callout, err := w.site.startCallout(ctx, w.muted.Callout())
	if err != nil {
		return err
	}
	defer callout.Stop(10 * time.Second)
	took, err := w.asker.rush(ctx, w.cold)
	if err != nil {
		return err
	}
	w.unread = append(w.unread, decisionCount/took.Seconds())
	var handshakes, decisions time.Duration
	for questions := range slices.Chunk(w.warm, decisionCount/turns) {
		if took, _, err = w.handshaker.run(ctx, len(questions)); err != nil {
			return err
		}
		handshakes += took
		if took, err = w.asker.rush(ctx, questions); err != nil {
			return err
		}
		decisions += took
	}
	w.handshakes = append(w.handshakes, decisionCount/handshakes.Seconds())
	w.decisions = append(w.decisions, decisionCount/decisions.Seconds())
	if took, err = w.admit(ctx, n); err != nil {
		return err
	}
	rate := loginCount / took.Seconds()
	w.admitted = append(w.admitted, rate)
	times, err := w.asker.pace(ctx, w.paced, 2*rate)
	if err != nil {
		return err
	}
	w.late = append(w.late, float64(percentile(times, 99))/float64(time.Millisecond))
	return nil
}

// admit logs devices in through TLS and the callout, and out again, with the
// tokens of a round, and returns how long that took.
func (w *loginWorld) admit(ctx context.Context, round int) (time.Duration, error) {
	to := w.secured.NATS()
	begin := time.Now()
	err := inFlight(loginCount, 64, func(i int) error {
		nc, err := nats.Connect(to.URLs[0], nats.RootCAs(to.CAFile), nats.Token(w.tokens[round][i]),
			nats.CustomInboxPrefix(wire.InboxPrefix(deviceID(i))), nats.Timeout(loginTimeout), nats.NoReconnect())
		if err != nil {
			return fmt.Errorf("logging %s in: %w", deviceID(i), err)
		}
		nc.Close()
		return ctx.Err()
	})
	return time.Since(begin), err
}
