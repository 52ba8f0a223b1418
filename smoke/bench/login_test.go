package bench

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/broker"
)

func TestPercentile(t *testing.T) {
	var times []time.Duration
	for i := range 1000 {
		times = append(times, time.Duration(1000-i))
	}
	for p, want := range map[int]time.Duration{1: 10, 50: 500, 99: 990, 100: 1000} {
		if got := percentile(times, p); got != want {
			t.Errorf("%d %%: %d, want %d", p, got, want)
		}
	}
	if got := percentile(times[:1], 99); got != 1000 {
		t.Errorf("of one: %d", got)
	}
}

// TestHandshakes: they take place, and whoever the client does not trust fails.
func TestHandshakes(t *testing.T) {
	h, err := newHandshaker()
	if err != nil {
		t.Fatal(err)
	}
	if took, each, err := h.run(t.Context(), 20); err != nil || took <= 0 || each <= 0 {
		t.Errorf("took %s, CPU time %s each, %v", took, each, err)
	}
	stranger, err := newHandshaker()
	if err != nil {
		t.Fatal(err)
	}
	h.server = stranger.server
	if _, _, err := h.run(t.Context(), 1); err == nil {
		t.Error("a server with another authority's certificate is trusted")
	}
}

// TestDecisions: the callout answers questions in the broker's stead, at once and
// at a rate, and an answer that is about another device is found out.
func TestDecisions(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Minute, errors.New("the callout took five minutes"))
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s, err := newSite(ctx, t.TempDir(), 4)
	must(err)
	t.Cleanup(s.Stop)
	b, err := broker.StartProcess(ctx, broker.Options{Callout: true, Muted: true})
	must(err)
	t.Cleanup(b.Stop)
	callout, err := s.startCallout(ctx, b.Callout())
	must(err)
	t.Cleanup(func() { callout.Stop(10 * time.Second) })
	a, err := newAsker(b)
	must(err)
	t.Cleanup(a.nc.Close)
	questions, err := a.questions(s, 16, 4)
	must(err)
	_, err = a.rush(ctx, questions[:8])
	must(err)
	times, err := a.pace(ctx, questions[8:], 1000)
	must(err)
	if len(times) != 8 || percentile(times, 100) <= 0 {
		t.Errorf("times of eight decisions: %v", times)
	}
	answer, err := a.ask(ctx, questions[0])
	must(err)
	must(a.check(questions[0], answer))
	if a.check(questions[1], answer) == nil {
		t.Error("an answer about another device is taken")
	}
	unknown, err := s.token(4, 0)
	must(err)
	q, err := a.question(deviceID(4), unknown)
	must(err)
	if answer, err = a.ask(ctx, q); err == nil && a.check(q, answer) == nil {
		t.Error("a device without a policy is let in")
	}
}
