package cost

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkSplitAMonth spreads a month of a thousand servers with ten
// containers each, which change once a day.
func BenchmarkSplitAMonth(b *testing.B) {
	var intervals []Interval
	for s := range 1000 {
		id := fmt.Sprint("s", s)
		intervals = append(intervals, server(id, 32, 128, 350_001, day, time.Time{}))
		for c := range 10 {
			for d := range 30 {
				from := at(24*d+c, s%60)
				intervals = append(intervals, container(fmt.Sprint("c", s, "-", c, "-", d), id, 2, 8, from, from.Add(24*time.Hour)))
			}
		}
	}
	for b.Loop() {
		Split(intervals, day, at(30*24, 0), func(Charge) {})
	}
}
