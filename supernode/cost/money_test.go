package cost

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestShares(t *testing.T) {
	for _, c := range []struct {
		name    string
		total   int64
		weights []int64
		want    []int64
	}{
		{"even", 90, []int64{1, 1, 1}, []int64{30, 30, 30}},
		{"the first gets what is left of equals", 100, []int64{1, 1, 1}, []int64{34, 33, 33}},
		{"the largest remainder gets it", 10, []int64{14, 26, 60}, []int64{1, 3, 6}},
		{"a share of nothing", 100, []int64{0, 1}, []int64{0, 100}},
		{"nobody", 100, []int64{0, 0}, []int64{0, 0}},
		{"no list", 100, nil, []int64{}},
		{"nothing to share", 0, []int64{3, 4}, []int64{0, 0}},
		{"numbers that need 128 bits", math.MaxInt64, []int64{math.MaxInt64, math.MaxInt64}, []int64{math.MaxInt64/2 + 1, math.MaxInt64 / 2}},
	} {
		if got := shares(c.total, c.weights); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestSharesMakeUpTheWhole(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		total, weights, heaviest := r.Int64N(1<<r.IntN(50)+1), make([]int64, 1+r.IntN(30)), int64(0)
		for i := range weights {
			weights[i] = r.Int64N(1<<r.IntN(55) + 1)
			heaviest = max(heaviest, weights[i])
		}
		sum, sumOfWeights := int64(0), int64(0)
		for _, w := range weights {
			sumOfWeights += w
		}
		for i, got := range shares(total, weights) {
			sum += got
			exact := float64(total) * float64(weights[i]) / float64(sumOfWeights)
			if got < 0 || math.Abs(float64(got)-exact) > 1+exact*1e-9 {
				t.Fatalf("seed %d: a share of %d, exactly it is %f", seed, got, exact)
			}
		}
		if heaviest > 0 && sum != total {
			t.Fatalf("seed %d: the shares make up %d of %d", seed, sum, total)
		}
	}
}

func TestPrice(t *testing.T) {
	for _, c := range []struct {
		name  string
		price Price
		hour  int64
	}{
		{name: "none"},
		{"an hourly one", Price{Hourly: 1_250_000}, 1_250_000},
		// 8760 € in 60 months are 146 € a month; with 54.75 € for power and
		// 18.25 € for the rack 219 €, through 730 hours 0.30 €.
		{"a purchase with power and rack", Price{Purchase: 8_760_000_000, AmortisationMonths: 60, PowerMonthly: 54_750_000, RackMonthly: 18_250_000}, 300_000},
		// 1000 € in 36 months are 0.0380517… € an hour.
		{"rounded once", Price{Purchase: 1_000_000_000, AmortisationMonths: 36}, 38_052},
		{"power alone", Price{PowerMonthly: 73_000_000}, 100_000},
		{"bytes alone", Price{EgressGB: 90_000}, 0},
		{"as much as there may be", Price{Purchase: MaxMicro, AmortisationMonths: 240, PowerMonthly: MaxMicro, RackMonthly: MaxMicro}, 2_745_433_789_954},
	} {
		if got := c.price.PerHour(); got != c.hour {
			t.Errorf("%s: %d an hour, want %d", c.name, got, c.hour)
		}
	}
}

func TestAmount(t *testing.T) {
	for micro, want := range map[int64]string{
		0: "0", 1: "0.000001", 1_000_000: "1", 15_120_000: "15.12", 100_000_000: "100", math.MaxInt64: "9223372036854.775807",
	} {
		if got := Amount(micro); got != want {
			t.Errorf("%d is %s, want %s", micro, got, want)
		}
	}
}
