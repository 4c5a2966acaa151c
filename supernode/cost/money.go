package cost

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
)

const (
	// HoursPerMonth turns a monthly price into an hourly one: a year of 365
	// days has twelve times 730 hours.
	HoursPerMonth = 730
	// MaxMicro bounds a budget, as the inventory bounds each amount of a price:
	// 10^9 units.
	MaxMicro = 1_000_000_000_000_000
	// gigabyte is what prices of bytes are for.
	gigabyte = 1_000_000_000
)

// Price is what a server of a pool costs, in millionths of a currency's unit.
// Either Hourly is set, or the four below it; nothing is negative.
type Price struct {
	Currency           string // ISO 4217, such as EUR; empty for no price
	Hourly             int64
	Purchase           int64 // of the machine
	AmortisationMonths int64 // over which Purchase is written off
	PowerMonthly       int64
	RackMonthly        int64
	EgressGB           int64 // of 10^9 bytes from outside
}

// PerHour is the price of a server's hour: the hourly one, or a month's share
// of the purchase with power and rack, through 730 hours. It is rounded once,
// to the nearest millionth.
func (p Price) PerHour() int64 {
	if p.Hourly > 0 {
		return p.Hourly
	}
	months := max(p.AmortisationMonths, 1)
	return divided(p.Purchase+(p.PowerMonthly+p.RackMonthly)*months, 1, months*HoursPerMonth)
}

func currency(s string) bool {
	return len(s) == 3 && !slices.ContainsFunc([]byte(s), func(c byte) bool { return c < 'A' || c > 'Z' })
}

// divided is a×b/c, rounded to the nearest, halves up. The product may need
// 128 bits; a result that does not fit is the largest number.
func divided(a, b, c int64) int64 {
	high, low := bits.Mul64(uint64(a), uint64(b))
	low, carry := bits.Add64(low, uint64(c)/2, 0)
	high += carry
	if high >= uint64(c) {
		return math.MaxInt64
	}
	q, _ := bits.Div64(high, low, uint64(c))
	return int64(min(q, math.MaxInt64))
}

// shares spreads total over weights by the method of the largest remainder:
// each gets its share rounded down, and what is left over goes, one by one, to
// those who lost most by that, the first ones where that is equal. The shares
// make up total exactly. Nothing may be negative; when all weights are 0
// nothing is spread.
func shares(total int64, weights []int64) []int64 {
	out := make([]int64, len(weights))
	var sum uint64
	for _, w := range weights {
		sum += uint64(w)
	}
	if sum == 0 {
		return out
	}
	type lost struct {
		index     int
		remainder uint64
	}
	left, rest := total, make([]lost, 0, len(weights))
	for i, w := range weights {
		high, low := bits.Mul64(uint64(total), uint64(w))
		q, remainder := bits.Div64(high, low, sum)
		out[i] = int64(q)
		left -= int64(q)
		if remainder > 0 {
			rest = append(rest, lost{i, remainder})
		}
	}
	if left == 0 {
		return out
	}
	slices.SortFunc(rest, func(a, b lost) int {
		return cmp.Or(cmp.Compare(b.remainder, a.remainder), cmp.Compare(a.index, b.index))
	})
	for _, r := range rest[:left] {
		out[r.index]++
	}
	return out
}

// plus is a+b of amounts that are not negative; what does not fit is the
// largest number, which is no amount that anybody owes.
func plus(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// Amount writes millionths as a decimal number, exactly and without zeros at
// its end.
func Amount(micro int64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%d.%06d", micro/1_000_000, micro%1_000_000), "0"), ".")
}
