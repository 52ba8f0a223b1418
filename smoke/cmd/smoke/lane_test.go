package main

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/nationtech/harmony-fleet/smoke/stories"
)

// TestSide: lines of lanes that write at the same time stay whole, and say whose they
// are.
func TestSide(t *testing.T) {
	var text strings.Builder
	var writing sync.WaitGroup
	for n, out := range side(&text, 3) {
		writing.Go(func() {
			for range 100 {
				fmt.Fprint(out, "a lane ")
				fmt.Fprintf(out, "of %d\nand", n+1)
				fmt.Fprintln(out, " more")
			}
		})
	}
	writing.Wait()
	for n := range 3 {
		for _, line := range []string{fmt.Sprintf("%d| a lane of %[1]d\n", n+1), fmt.Sprintf("%d| and more\n", n+1)} {
			if got := strings.Count(text.String(), line); got != 100 {
				t.Errorf("%q is there %d times", line, got)
			}
		}
	}
}

// TestQueue: each story is told once, and none is begun after one has failed.
func TestQueue(t *testing.T) {
	q := newQueue([]stories.Story{{Name: "a"}, {Name: "b"}, {Name: "c"}})
	var told []string
	for range 2 {
		s, more := q.next(t.Context())
		if !more {
			t.Fatal("there is no other story")
		}
		told = append(told, s.Name)
	}
	if got := strings.Join(told, " "); got != "a b" {
		t.Errorf("told are %s", got)
	}
	q.failed.Store(true)
	if s, more := q.next(t.Context()); more {
		t.Errorf("%s is told after a failure", s.Name)
	}
}
