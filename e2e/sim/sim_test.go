package sim

import (
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/swarm/policy"
)

// usual is 100 Mbit/s links and pieces of 256 KiB.
func usual(hosts, blobs, pieces int) Config {
	return Config{
		Hosts: hosts, Blobs: blobs, Pieces: pieces, Piece: 256 << 10, Rate: 100e6 / 8,
		Latency: time.Millisecond, Gather: 20 * time.Millisecond, Policy: policy.Default(), Random: 1,
	}
}

func TestScale(t *testing.T) {
	for _, hosts := range []int{4, 8, 16, 32, 64} {
		r := Run(usual(hosts, 4, 128))
		t.Logf("N=%d last %.3f mean %.3f copies %.3f hedges %d events %d", hosts, r.Ratio(), float64(r.Mean)/float64(r.Bound), r.Copies, r.Hedges, r.Events)
	}
}
