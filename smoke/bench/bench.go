// Package bench measures the ratios that claims about performance stand on, both
// sides of each in one run and in turn, so that a slow or busy machine slows
// both, and what an agent costs its device. It prints what it finds against the
// target and fails for nothing but being unable to measure; it never asserts a
// duration.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// rounds is how often each side of each ratio is measured.
const rounds = 5

// row is one line of the table.
type row struct {
	what   string
	unit   string
	values series
	// target says what the median must be: at least or at most; both 0 for a
	// row that only informs.
	atLeast, atMost float64
	none            bool // the target is that there is nothing
}

// series are the values of the rounds.
type series []float64

func (s series) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[len(sorted)/2]
}

// ratio divides round by round.
func ratio(a, b series) series {
	r := make(series, len(a))
	for i := range a {
		r[i] = a[i] / b[i]
	}
	return r
}

func (r row) verdict() (target, verdict string) {
	median := r.values.median()
	switch {
	case r.none:
		target, verdict = "0", "pass"
		if median != 0 {
			verdict = "MISS"
		}
	case r.atLeast != 0:
		target, verdict = fmt.Sprintf(">= %g", r.atLeast), "pass"
		if median < r.atLeast {
			verdict = "MISS"
		}
	case r.atMost != 0:
		target, verdict = fmt.Sprintf("<= %g", r.atMost), "pass"
		if median > r.atMost {
			verdict = "MISS"
		}
	}
	return target, verdict
}

// bench is one run.
type bench struct {
	out  io.Writer
	rows []row
	dir  string
}

// Run measures everything and prints the table. It needs root and podman for
// the agent's part.
func Run(ctx context.Context, out io.Writer) (err error) {
	b := &bench{out: out}
	if b.dir, err = os.MkdirTemp("", "fleet-bench-"); err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	for _, part := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"state events through the whole pipeline against a consumer that drops them", b.events},
		{"logins: the callout against TLS handshakes", b.logins},
		{"how a fleet comes back after its broker was killed", b.restart},
		{"the cost of a label change", b.labelChanges},
		{"the index against brute force", b.index},
		{"heap per device", b.heap},
		{"what the agent costs its device", b.footprint},
	} {
		begin := time.Now()
		fmt.Fprintf(out, "measuring %s…\n", part.name)
		if err := part.do(ctx); err != nil {
			return fmt.Errorf("measuring %s: %w", part.name, err)
		}
		fmt.Fprintf(out, "  done in %s\n", time.Since(begin).Round(100*time.Millisecond))
	}
	return b.print()
}

func (b *bench) add(r row) { b.rows = append(b.rows, r) }

func (b *bench) print() error {
	table := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\nwhat\tmedian\tmin\tmax\tunit\ttarget\t\n")
	for _, r := range b.rows {
		target, verdict := r.verdict()
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.what,
			number(r.values.median()), number(slices.Min(r.values)), number(slices.Max(r.values)), r.unit, target, verdict)
	}
	return table.Flush()
}

func number(v float64) string {
	switch {
	case v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3f", v)
}
