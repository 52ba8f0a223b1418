package backoff

import (
	"testing"
	"time"
)

func TestJitter(t *testing.T) {
	var least, most time.Duration = time.Hour, 0
	for range 2000 {
		d := FullJitter(3, time.Second, 30*time.Second)
		least, most = min(least, d), max(most, d)
		if beat := Jittered(30 * time.Second); beat < 27*time.Second || beat > 33*time.Second {
			t.Fatalf("Jittered(30s) = %s", beat)
		}
	}
	if least > time.Second || most < 7*time.Second || most > 8*time.Second {
		t.Errorf("FullJitter(3, 1s, 30s) drew from %s to %s, want 0s to 8s", least, most)
	}
	if d := Doubled(1000, time.Second, 30*time.Second); d != 30*time.Second {
		t.Errorf("Doubled(1000) = %s", d)
	}
}
