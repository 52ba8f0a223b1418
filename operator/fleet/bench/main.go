// Bench measures the operator's pure core, operator/fleet, and prints a table
// with the median and the spread over several rounds. Where two things are
// compared, both are measured in each round: a number says something about one
// host, a ratio of two numbers of one run says something about the code. It
// measures nothing outside the core and keeps no results.
package main

import (
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
)

// rounds of each measurement.
const rounds = 5

func main() {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "measurement\tmedian\tmin\tmax\ttarget")
	for _, m := range measurements() {
		round := m.prepare()
		var values []float64
		for range rounds {
			values = append(values, round())
		}
		slices.Sort(values)
		fmt.Fprintf(table, "%s\t%.4g %s\t%.4g %s\t%.4g %s\t%s\n", m.name,
			values[rounds/2], m.unit, values[0], m.unit, values[rounds-1], m.unit, m.target)
	}
	if err := table.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, "printing the table:", err)
		os.Exit(1)
	}
}
