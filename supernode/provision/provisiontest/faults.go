package provisiontest

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/shoalproject/shoal/supernode/provision"
)

// What a cloud says when it is not well.
var (
	errTooMany     = &provision.BusyError{After: 20 * time.Second, Err: errors.New("429 Too Many Requests")}
	errBusy        = &provision.BusyError{Err: errors.New("503 Service Unavailable")}
	errServer      = errors.New("500 Internal Server Error")
	errUnreachable = errors.New("connection reset by peer")
)

// Weather draws a fault for a share of all calls, between 0 and 1, the same
// ones for the same seed and order of calls. Late says whether calls may take
// effect after their caller gave up.
func Weather(seed uint64, share float64, late bool) func(Call) Fault {
	var mu sync.Mutex
	draw := rand.New(rand.NewPCG(seed, 1))
	effects := []Effect{Nothing, Done}
	if late {
		effects = append(effects, Later)
	}
	return func(Call) Fault {
		mu.Lock()
		defer mu.Unlock()
		if draw.Float64() >= share {
			return Fault{}
		}
		effect := effects[draw.IntN(len(effects))]
		switch draw.IntN(6) {
		case 0:
			return Fault{Err: errTooMany} // which is said before anything is done
		case 1:
			return Fault{Err: errBusy}
		case 2:
			return Fault{Err: errServer, Effect: effect}
		case 3:
			return Fault{Hang: true, Effect: effect}
		}
		return Fault{Err: errUnreachable, Effect: effect}
	}
}
