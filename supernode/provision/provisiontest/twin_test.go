package provisiontest

import (
	"testing"
	"time"

	"github.com/shoalproject/shoal/supernode/provision"
)

// TestTwin holds the twin against the suite, as every provider is.
func TestTwin(t *testing.T) {
	Run(t, func(*testing.T) Subject {
		return Subject{
			Provider: NewTwin(Cloud{Boot: 30 * time.Millisecond, End: 30 * time.Millisecond, Lag: 10 * time.Millisecond}),
			Spec:     func(_ int, tag string) provision.Spec { return provision.Spec{Tag: tag} },
			Many:     300, Settle: 10 * time.Second,
		}
	})
}
