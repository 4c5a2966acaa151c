package auth

import (
	"errors"
	"sync"
	"time"

	"github.com/shoalproject/shoal/supernode/auth/openid"
)

const (
	// maxDevices bounds the logins from terminals that are under way, in all
	// and from one address: each has made us ask the provider.
	maxDevices        = 1024
	maxDevicesAddress = 16
	// startingDevice bounds how long a place is kept for the provider's answer.
	startingDevice = time.Minute
	// slowerBy is added to the pause when the provider asks for that (RFC
	// 8628, section 3.5).
	slowerBy = 5 * time.Second
)

// ErrDeviceEnded is returned for a login from a terminal that is over, was
// never begun, or was begun before the supernode was started.
var ErrDeviceEnded = errors.New("this login has ended: begin it again")

// devices holds the logins from terminals that are under way. They are kept in
// memory only: the codes in them are worth a login.
type devices struct {
	mu   sync.Mutex
	open map[string]*deviceEntry // by the hash of the handle; guarded by mu
}

// deviceEntry is one of them; its fields are guarded by devices.mu.
type deviceEntry struct {
	address  string
	code     string // empty: the provider has not answered yet
	expires  time.Time
	interval time.Duration
	next     time.Time // no question to the provider before
	asking   bool
}

func newDevices() *devices { return &devices{open: map[string]*deviceEntry{}} }

// add takes a place for a login from an address.
func (d *devices) add(key, address string, now time.Time) (*deviceEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	mine, first := 0, now.Add(startingDevice)
	for k, e := range d.open {
		if !now.Before(e.expires) {
			delete(d.open, k)
			continue
		}
		if e.address == address {
			mine++
		}
		if e.expires.Before(first) {
			first = e.expires
		}
	}
	if mine >= maxDevicesAddress || len(d.open) >= maxDevices {
		return nil, &LimitError{After: max(first.Sub(now), time.Second), what: "logins from terminals are under way"}
	}
	e := &deviceEntry{address: address, expires: now.Add(startingDevice)}
	d.open[key] = e
	return e, nil
}

func (d *devices) begin(e *deviceEntry, login openid.Device) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e.code, e.expires, e.interval = login.Code, login.Expires, login.Interval
}

func (d *devices) remove(key string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, key)
}

// ask gives the code to ask the provider about, or openid.ErrPending when it
// is too early to ask again.
func (d *devices) ask(key string, now time.Time) (code string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.open[key]
	if e == nil || e.code == "" || !now.Before(e.expires) {
		delete(d.open, key)
		return "", ErrDeviceEnded
	}
	if e.asking || now.Before(e.next) {
		return "", openid.ErrPending
	}
	e.asking = true
	return e.code, nil
}

// answered takes the outcome of a question: the login ends, or goes on after a
// pause.
func (d *devices) answered(key string, now time.Time, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.open[key]
	if e == nil {
		return
	}
	e.asking = false
	switch {
	case errors.Is(err, openid.ErrSlowDown):
		e.interval += slowerBy
	case errors.Is(err, openid.ErrPending), errors.Is(err, openid.ErrUnavailable):
	default:
		delete(d.open, key)
	}
	e.next = now.Add(e.interval)
}
