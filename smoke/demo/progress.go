package demo

import (
	"fmt"
	"io"
	"time"
)

// tellAfter is the time between two signs of life of a slow step.
const tellAfter = 15 * time.Second

// step runs one step of the start or the stop, says what it does, that it still
// does it, and how long it took.
func step(out io.Writer, what string, run func() error) error {
	fmt.Fprintf(out, "%s …\n", what)
	begin := time.Now()
	done := make(chan error, 1)
	go func() { done <- run() }()
	ticker := time.NewTicker(tellAfter)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				fmt.Fprintf(out, "  failed (%s)\n", seconds(begin))
				return fmt.Errorf("%s: %w", what, err)
			}
			fmt.Fprintf(out, "  done (%s)\n", seconds(begin))
			return nil
		case <-ticker.C:
			fmt.Fprintf(out, "  still at it (%s)\n", seconds(begin))
		}
	}
}

func seconds(since time.Time) string {
	return fmt.Sprintf("%.1f s", time.Since(since).Seconds())
}
