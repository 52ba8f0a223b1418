package bench

import (
	"errors"
	"testing"
)

// TestCurrent: an agent counts once it has read its manifest over a connection that
// began after the loss of the last one.
func TestCurrent(t *testing.T) {
	up := func(s *agent) { s.connection("nats://127.0.0.1", nil) }
	down := func(s *agent) { s.connection("", errors.New("gone")) }
	read := func(s *agent) { s.read(nil) }
	refuse := func(s *agent) { s.read(errors.New("expired")) }
	lose := func(s *agent) { s.of.lose() }
	for name, c := range map[string]struct {
		reason string
		steps  []func(*agent)
		want   int
	}{
		"connected":              {"it has read nothing", []func(*agent){up}, 0},
		"read":                   {"it is current", []func(*agent){up, read}, 1},
		"read twice":             {"it is one agent", []func(*agent){up, read, read}, 1},
		"refused":                {"it keeps what it had", []func(*agent){up, refuse}, 0},
		"down":                   {"it is no longer current", []func(*agent){up, read, down}, 0},
		"back":                   {"it is again", []func(*agent){up, read, lose, down, up, read}, 1},
		"late news of the loss":  {"it is counted out once", []func(*agent){up, read, lose, down}, 0},
		"an answer from before":  {"it says nothing of the new broker", []func(*agent){up, lose, read}, 0},
		"read and not connected": {"the connection is told first", []func(*agent){read}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			a := &agents{changed: make(chan struct{}, 1)}
			one := &agent{of: a}
			a.all = []*agent{one}
			for _, step := range c.steps {
				step(one)
			}
			if a.current != c.want {
				t.Errorf("%s: %d current, want %d", c.reason, a.current, c.want)
			}
		})
	}
}
