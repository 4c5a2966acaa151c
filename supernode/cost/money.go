package cost

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

const (
	// HoursPerMonth turns a monthly price into an hourly one: a year of 365
	// days has twelve times 730 hours.
	HoursPerMonth = 730
	// MaxMicro bounds each amount of a price or budget, in millionths: 10^9
	// units. A month of ten thousand servers at it fits an int64.
	MaxMicro = 1_000_000_000_000_000
	// maxHourly bounds the price of a server's hour, in millionths.
	maxHourly = 1_000_000_000_000
	// gigabyte is what prices of bytes are for.
	gigabyte = 1_000_000_000
	// maxMonths bounds the time over which a purchase is written off.
	maxMonths = 600
)

// Price is what a server of a pool costs, in millionths of a currency's unit.
// Either Hourly is set, or the four below it.
type Price struct {
	Currency           string // ISO 4217, such as EUR; empty for no price
	Hourly             int64
	Purchase           int64 // of the machine
	AmortisationMonths int64 // over which Purchase is written off
	PowerMonthly       int64
	RackMonthly        int64
	EgressGB           int64 // of 10^9 bytes from outside
}

// Check refuses a price that cannot be counted with.
func (p Price) Check() error {
	if p == (Price{}) {
		return nil
	}
	if !currency(p.Currency) {
		return fmt.Errorf("the currency %.10q is %w: give three capital letters, such as EUR", p.Currency, ErrInvalid)
	}
	for what, micro := range map[string]int64{
		"hourly price": p.Hourly, "purchase": p.Purchase, "power": p.PowerMonthly, "rack": p.RackMonthly, "price of a gigabyte": p.EgressGB,
	} {
		if micro < 0 || micro > MaxMicro {
			return fmt.Errorf("the %s of %d millionths is %w: 0 to %d are taken", what, micro, ErrInvalid, int64(MaxMicro))
		}
	}
	if p.AmortisationMonths < 0 || p.AmortisationMonths > maxMonths {
		return fmt.Errorf("writing a purchase off in %d months is %w: 1 to %d are taken", p.AmortisationMonths, ErrInvalid, maxMonths)
	}
	if p.Hourly > 0 && (p.Purchase > 0 || p.PowerMonthly > 0 || p.RackMonthly > 0) {
		return fmt.Errorf("an hourly price beside a purchase, power or rack is %w: give the one or the others", ErrInvalid)
	}
	if p.Purchase > 0 && p.AmortisationMonths == 0 {
		return fmt.Errorf("a purchase without the months to write it off is %w: say how many", ErrInvalid)
	}
	if p.PerHour() > maxHourly {
		return fmt.Errorf("a price of %d millionths an hour is %w: at most %d are taken", p.PerHour(), ErrInvalid, int64(maxHourly))
	}
	return nil
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
	left, rest := total, make([]lost, len(weights))
	for i, w := range weights {
		high, low := bits.Mul64(uint64(total), uint64(w))
		q, remainder := bits.Div64(high, low, sum)
		out[i], rest[i] = int64(q), lost{i, remainder}
		left -= int64(q)
	}
	slices.SortStableFunc(rest, func(a, b lost) int { return cmp.Compare(b.remainder, a.remainder) })
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
