package settings

import (
	"math"
	"testing"
)

func TestAmounts(t *testing.T) {
	for text, want := range map[string]Amount{
		"0": 0, "1": 1_000_000, "1500": 1_500_000_000, "0.25": 250_000, "0.000001": 1, "15.120000": 15_120_000, "007": 7_000_000,
		"1000000000": 1_000_000_000_000_000,
	} {
		var got, back Amount
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s is %d, want %d: %v", text, got, want, err)
		}
		if err := back.UnmarshalText([]byte(got.String())); err != nil || back != got {
			t.Errorf("%s is written as %s, which is %d: %v", text, got, back, err)
		}
	}
	for _, text := range []string{"", ".", "1.", ".5", "-1", "+1", "1,5", "1e3", "0x10", "1 000", "0.0000001", "1000000001", "1000000000.000001", "99999999999999999999", "€1", "١"} {
		got := Amount(-7)
		if err := got.UnmarshalText([]byte(text)); err == nil || got != -7 {
			t.Errorf("%q was taken for %d", text, got)
		}
	}
	for a, want := range map[Amount]string{
		0: "0", 1: "0.000001", 1_000_000: "1", 15_120_000: "15.12", 100_000_000: "100", -1_500_000: "-1.5",
		math.MaxInt64: "9223372036854.775807", math.MinInt64: "-9223372036854.775808",
	} {
		if got := a.String(); got != want {
			t.Errorf("%d is %s, want %s", int64(a), got, want)
		}
	}
}

// FuzzAmount: what is read is written the same way, and within its bounds.
func FuzzAmount(f *testing.F) {
	for _, text := range []string{"0", "15.12", "1000000000", "-1", "1.0000000"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var a, b Amount
		if a.UnmarshalText([]byte(text)) != nil {
			return
		}
		if err := b.UnmarshalText([]byte(a.String())); err != nil || a != b || a < 0 || a > maxUnits*1_000_000 {
			t.Fatalf("%q is %d, written as %s, which is %d: %v", text, int64(a), a, int64(b), err)
		}
	})
}
