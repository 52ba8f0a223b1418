package main

import "testing"

// BenchmarkMeasurements runs each measurement as a benchmark, for profiles.
func BenchmarkMeasurements(b *testing.B) {
	for _, m := range measurements() {
		b.Run(m.name, func(b *testing.B) {
			round := m.prepare()
			b.ResetTimer()
			var sum float64
			for range b.N {
				sum += round()
			}
			b.ReportMetric(sum/float64(b.N), m.unit+"/round")
		})
	}
}
