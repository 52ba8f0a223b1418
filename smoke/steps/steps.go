// Package steps tells a person what a command that takes minutes is at: each step
// when it begins, that it still goes on, and how long it took. It never hides an
// error and never decides what comes next.
package steps

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// tellAfter is the time between two signs of life of a slow step.
const tellAfter = 15 * time.Second

// Run runs one step, says what it does, that it still does it, and how long it took.
func Run(out io.Writer, what string, run func() error) error { return indented(out, "", what, run) }

func indented(out io.Writer, indent, what string, run func() error) error {
	fmt.Fprintf(out, "%s%s …\n", indent, what)
	begin := time.Now()
	done := make(chan error, 1)
	go func() { done <- run() }()
	ticker := time.NewTicker(tellAfter)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				fmt.Fprintf(out, "%s  failed (%s)\n", indent, Since(begin))
				return fmt.Errorf("%s: %w", what, err)
			}
			fmt.Fprintf(out, "%s  done (%s)\n", indent, Since(begin))
			return nil
		case <-ticker.C:
			fmt.Fprintf(out, "%s  still at it (%s)\n", indent, Since(begin))
		}
	}
}

// Since is the time that has passed, as people read it.
func Since(begin time.Time) string { return seconds(time.Since(begin)) }

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// Journal remembers the steps that it runs, one after the other.
type Journal struct {
	// Out hears about each step, and what else the steps have to say.
	Out   io.Writer
	depth int
	rows  []row
}

type row struct {
	depth int
	what  string
	took  time.Duration
	err   error
}

// Step runs one step as Run does and remembers it.
func (j *Journal) Step(what string, run func() error) error {
	return j.record(what, func() error { return indented(j.Out, strings.Repeat("  ", j.depth), what, run) })
}

// Group remembers what consists of steps, which run runs.
func (j *Journal) Group(what string, run func() error) error {
	return j.record(what, func() error {
		fmt.Fprintf(j.Out, "%s%s\n", strings.Repeat("  ", j.depth), what)
		j.depth++
		err := run()
		j.depth--
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
}

func (j *Journal) record(what string, run func() error) error {
	at, begin := len(j.rows), time.Now()
	j.rows = append(j.rows, row{depth: j.depth, what: what})
	err := run()
	j.rows[at].took, j.rows[at].err = time.Since(begin), err
	return err
}

// Table has a line for each step: what it was, how long it took, how it ended.
func (j *Journal) Table() string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, r := range j.rows {
		result := "ok"
		if r.err != nil {
			result = "FAILED"
		}
		fmt.Fprintf(w, "%s%s\t%8s\t%s\n", strings.Repeat("  ", r.depth), r.what, seconds(r.took), result)
	}
	_ = w.Flush() // to memory
	return text.String()
}
