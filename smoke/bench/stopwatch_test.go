package bench

import (
	"testing"
	"time"
)

// TestCovered: what podman does is taken away once, and only as far as it was waited for.
func TestCovered(t *testing.T) {
	zero := time.Unix(0, 0)
	at := func(begin, end int) span {
		return span{begin: zero.Add(time.Duration(begin) * time.Second), end: zero.Add(time.Duration(end) * time.Second)}
	}
	removal := at(3, 5)
	removal.removal = true
	for name, c := range map[string]struct {
		reason string
		spans  []span
		want   time.Duration
	}{
		"nothing":    {"podman was not asked", nil, 0},
		"one":        {"the whole of it", []span{at(3, 5)}, 2 * time.Second},
		"two":        {"one after the other", []span{at(5, 6), at(3, 4)}, 2 * time.Second},
		"together":   {"two at a time are waited for once", []span{at(3, 6), at(4, 5), at(5, 7)}, 4 * time.Second},
		"early":      {"what began before counts from the beginning", []span{at(0, 3)}, time.Second},
		"late":       {"what ends after counts until the end", []span{at(9, 12)}, time.Second},
		"long over":  {"it was of another update", []span{at(0, 1), at(11, 12)}, 0},
		"tidying up": {"nobody waits for a removal", []span{removal}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := covered(c.spans, zero.Add(2*time.Second), zero.Add(10*time.Second)); got != c.want {
				t.Errorf("%s: got %s, want %s", c.reason, got, c.want)
			}
		})
	}
}
