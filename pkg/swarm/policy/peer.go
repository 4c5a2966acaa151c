package policy

import (
	"math/rand/v2"
	"time"
)

const (
	firstBackOff = 200 * time.Millisecond
	lastBackOff  = 15 * time.Second
	// BanTime is how long a peer that sent wrong bytes is left alone.
	BanTime = time.Hour
	// falseClaims is how many pieces that a peer claimed and did not have are
	// forgiven before all its claims are laid aside for a time.
	falseClaims = 3
)

// Peer is what is known about one peer, over all blobs.
type Peer struct {
	Distance    int // as blob.Peer has it
	Outstanding int // pieces asked for and not yet here

	failures int           // in a row
	lies     int           // claims that were false, less the pieces that came
	until    time.Time     // not asked before
	banned   time.Time     // banned until
	pace     time.Duration // smoothed time of a piece from asking to end; 0 = none yet
	moved    time.Time     // when bytes of a piece last came
	quiet    bool          // owes pieces of which nothing comes
}

// Ready reports whether the peer may be asked now.
func (p *Peer) Ready(now time.Time) bool {
	return !now.Before(p.until) && !now.Before(p.banned)
}

// Banned reports whether the peer sent wrong bytes within the last BanTime.
func (p *Peer) Banned(now time.Time) bool { return now.Before(p.banned) }

// Liar reports whether the peer's claims are laid aside.
func (p *Peer) Liar() bool { return p.lies >= falseClaims }

// Hopeless reports whether there is no use in waiting for the peer.
func (p *Peer) Hopeless(now time.Time) bool { return p.failures >= 4 || p.Banned(now) }

// Moved takes note that bytes of a piece came from the peer.
func (p *Peer) Moved(now time.Time) { p.moved, p.quiet = now, false }

// Stalled takes note that of a piece the peer owes nothing came for so long.
// When nothing else came from it either, it is quiet: until something comes it
// counts as a peer that holds nothing.
func (p *Peer) Stalled(now time.Time, after time.Duration) {
	if now.Sub(p.moved) >= after {
		p.quiet = true
	}
}

// answers reports whether what the peer is said to hold may be counted on.
func (p *Peer) answers(now time.Time) bool { return !p.quiet && !p.Liar() && !p.Hopeless(now) }

// RetryAt is when the peer may be asked again.
func (p *Peer) RetryAt() time.Time {
	if p.banned.After(p.until) {
		return p.banned
	}
	return p.until
}

// Delivered takes note of a piece that came and was right.
func (p *Peer) Delivered(took time.Duration) {
	p.failures, p.quiet = 0, false
	p.lies = max(0, p.lies-1)
	p.Slow(took)
}

// Slow takes note that a piece took at least so long.
func (p *Peer) Slow(took time.Duration) {
	if p.pace == 0 {
		p.pace = took
		return
	}
	p.pace += (took - p.pace) / 4
}

// Failed takes note of a refused connection, a time-out or a broken answer,
// and backs off twice as long as the last time.
func (p *Peer) Failed(now time.Time, r *rand.Rand) {
	p.until = now.Add(backOff(p.failures, r))
	p.failures++
}

// Silent takes note of a peer that took a request and sent nothing, where
// another was faster: it costs a slot for as long as it is believed, so it is
// believed less than one that says no.
func (p *Peer) Silent(now time.Time, r *rand.Rand) {
	p.failures += 2
	p.Failed(now, r)
}

// Busy takes note that the peer asked to be left alone for a time.
func (p *Peer) Busy(now time.Time, after time.Duration) {
	p.failures = 0
	if until := now.Add(min(max(after, 10*time.Millisecond), 5*time.Second)); until.After(p.until) {
		p.until = until
	}
}

// Lied takes note that the peer did not have a piece it had claimed.
func (p *Peer) Lied(now time.Time, r *rand.Rand) {
	p.lies++
	if p.lies >= falseClaims {
		p.until = now.Add(backOff(p.lies+2, r))
	}
}

// Ban leaves the peer alone for BanTime.
func (p *Peer) Ban(now time.Time) { p.banned = now.Add(BanTime) }

// backOff doubles with each failure, half of it chance.
func backOff(failures int, r *rand.Rand) time.Duration {
	d := firstBackOff << min(failures, 10)
	d = min(d, lastBackOff)
	return d/2 + time.Duration(r.Int64N(int64(d/2)+1))
}

// cost is what asking this peer for one more piece is guessed to take, in
// arbitrary units; usual is the pace of a peer that nothing is known of.
func (p *Peer) cost(usual time.Duration) float64 {
	pace := p.pace
	if pace == 0 {
		pace = usual
	}
	// A peer twice as fast is not asked twice as often: its pace of the last
	// pieces says as much about who else asked it.
	steady := float64(pace + usual)
	return steady * float64(1+p.Outstanding) * (1 + 0.5*float64(p.Distance))
}
