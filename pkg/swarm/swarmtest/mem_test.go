package swarmtest

import (
	"testing"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm"
)

func TestTwin(t *testing.T) {
	Sink(t, func(_ *testing.T, d blob.Digest, size int64) swarm.Sink { return New(d, size) })
}
