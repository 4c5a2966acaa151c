package sim

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/swarm/policy"
)

// usual is links of 100 Mbit/s, pieces of 256 KiB, and news gathered for as long
// as a server gathers them for so many neighbours.
func usual(hosts, blobs, pieces int) Config {
	return Config{
		Hosts: hosts, Blobs: blobs, Pieces: pieces, Piece: 256 << 10, Rate: 100e6 / 8,
		Latency: time.Millisecond, Gather: min(time.Duration(hosts)*20*time.Millisecond, 250*time.Millisecond), Policy: policy.Default(), Random: 1,
	}
}

// play runs a configuration and fails when the last host is later than last
// times the bound, or the seed sends more than copies.
func play(t *testing.T, cfg Config, last, copies float64) Result {
	t.Helper()
	began := time.Now()
	r := Run(cfg)
	t.Logf("N=%d seed of chance %d: last %.3f T*, mean %.3f T*, %.3f copies, %d hedges, %d events in %v",
		cfg.Hosts, cfg.Random, r.Ratio(), float64(r.Mean)/float64(r.Bound), r.Copies, r.Hedges, r.Events, time.Since(began).Round(time.Millisecond))
	if r.Last == 0 {
		t.Error("a host never had everything")
	}
	if r.Ratio() > last {
		t.Errorf("the last host took %.3f T*, more than %.2f", r.Ratio(), last)
	}
	if r.Copies > copies {
		t.Errorf("the seed sent %.3f copies, more than %.2f", r.Copies, copies)
	}
	return r
}

func TestHostsFinishTogether(t *testing.T) {
	for _, c := range []struct {
		hosts int
		last  float64
	}{{1, 1.05}, {4, 1.15}, {8, 1.20}, {16, 1.22}, {32, 1.27}, {64, 1.32}} {
		t.Run(strconv.Itoa(c.hosts), func(t *testing.T) {
			t.Parallel()
			play(t, usual(c.hosts, 4, 128), c.last, 1.05)
		})
	}
}

// SHOAL_SIM_HOSTS runs more hosts than a test has time for.
func TestThousandHostsWithFewNeighbours(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	hosts := 1000
	if text := os.Getenv("SHOAL_SIM_HOSTS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("SHOAL_SIM_HOSTS=%q: want a number of hosts", text)
		}
		hosts = n
	}
	cfg := usual(hosts, 1, 128)
	cfg.Neighbours = 22
	play(t, cfg, 1.6, 1.1)
}

func TestTroubleCostsAtMostAFifth(t *testing.T) {
	normal := Run(usual(16, 4, 128)).Ratio()
	for name, trouble := range map[string]func(*Config){
		"a tenth dies half-way":     func(c *Config) { c.Dying = 0.1 },
		"one crawls":                func(c *Config) { c.Crawler = true },
		"one takes and is silent":   func(c *Config) { c.Silent = true },
		"nine of ten claim falsely": func(c *Config) { c.Hosts, c.Liars = 100, 0.9 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := usual(16, 4, 128)
			trouble(&cfg)
			play(t, cfg, 1.2*normal, 1.3)
		})
	}
}

// TestHolderThatFreezes: what has left the seed lies with a single host, which
// falls silent when the others have an eighth of it.
func TestHolderThatFreezes(t *testing.T) {
	for _, hosts := range []int{4, 16} {
		t.Run(strconv.Itoa(hosts), func(t *testing.T) {
			t.Parallel()
			cfg := usual(hosts, 1, 128)
			normal := Run(cfg).Ratio()
			cfg.Freezes = true
			// In these pulls of 3 s, the silence itself is a tenth until it is noticed.
			play(t, cfg, 1.2*normal, 1.2)
		})
	}
}

func TestARunCanBePlayedAgain(t *testing.T) {
	cfg := usual(8, 2, 32)
	cfg.Dying, cfg.Crawler, cfg.Freezes = 0.2, true, true
	first, second := Run(cfg), Run(cfg)
	if first != second {
		t.Errorf("two runs of one configuration differ: %+v and %+v", first, second)
	}
	cfg.Random++
	if Run(cfg) == first {
		t.Error("another seed of chance changes nothing")
	}
}
