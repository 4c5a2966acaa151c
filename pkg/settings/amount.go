package settings

import (
	"fmt"
	"strconv"
	"strings"
)

// Amount is an amount of money in millionths of a currency's unit, written as
// 1500 or 0.25. It is exact both ways.
type Amount int64

// maxUnits bounds what is read: 10^9 units.
const maxUnits = 1_000_000_000

// decimals is how many digits behind the point there are.
const decimals = 6

// UnmarshalText reads 1500, 0.25 or 0.
func (a *Amount) UnmarshalText(b []byte) error {
	units, part, _ := strings.Cut(string(b), ".")
	digits := func(s string) bool {
		return s != "" && !strings.ContainsFunc(s, func(c rune) bool { return c < '0' || c > '9' })
	}
	wrong := fmt.Errorf("%.40q is not an amount such as 1500 or 0.25, of at most %d with %d digits behind the point", b, maxUnits, decimals)
	if !digits(units) || len(part) > decimals || strings.Contains(string(b), ".") && !digits(part) {
		return wrong
	}
	whole, err := strconv.ParseInt(units, 10, 64)
	if err != nil || whole > maxUnits {
		return wrong
	}
	micro, err := strconv.ParseInt((part + "000000")[:decimals], 10, 64)
	if err != nil || whole == maxUnits && micro > 0 {
		return wrong
	}
	*a = Amount(whole*1_000_000 + micro)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (a Amount) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// String writes an amount without zeros at its end. What is owed the other way
// begins with a minus.
func (a Amount) String() string {
	sign, micro := "", uint64(a)
	if a < 0 {
		sign, micro = "-", -micro
	}
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%s%d.%06d", sign, micro/1_000_000, micro%1_000_000), "0"), ".")
}
