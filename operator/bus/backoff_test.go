package bus

import (
	"testing"
	"time"
)

// TestBackoff: no wait is above its bound, which doubles and then stays, and waits
// differ.
func TestBackoff(t *testing.T) {
	for name, c := range map[string]struct {
		attempt     int
		most, bound time.Duration
	}{
		"the first":         {0, 10 * time.Second, 100 * time.Millisecond},
		"the third":         {2, 10 * time.Second, 400 * time.Millisecond},
		"one of many":       {1000, 10 * time.Second, 10 * time.Second},
		"with a lower most": {1000, 500 * time.Millisecond, 500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			var longest time.Duration
			for range 1000 {
				longest = max(longest, backoff(c.attempt, c.most))
			}
			if longest >= c.bound || longest < c.bound/2 {
				t.Errorf("the longest of 1000 waits is %s, want one below %s and not by much", longest, c.bound)
			}
		})
	}
}
