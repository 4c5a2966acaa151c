package api

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/token"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/tracker"
)

const (
	// grantLife is how long a piece grant opens a digest, and so for how long
	// one is still good whose reader lost the right. The tracker's answers, at
	// least every 5 s, bring new ones while the node wants the digest.
	grantLife = time.Minute
	// flightLife is for how long a node that was let in may go on with its
	// flight when the token that opened it has run out.
	flightLife = time.Hour
	// maxEntered bounds the flights that are remembered.
	maxEntered = 100_000
)

// Grants decides which node may have the pieces of which digest, and makes out
// the leave that its neighbours ask for.
type Grants struct {
	sign blob.SignFunc
	now  func() time.Time

	mu      sync.Mutex
	entered map[flightKey]entrance // guarded by mu
	minted  map[flightKey]minted   // guarded by mu
}

// minted is a grant that is handed out again while it has half of its life:
// each new one costs a signature here and one more check at every neighbour.
type minted struct {
	raw []byte
	at  time.Time
}

// entrance is how a node came to its flight.
type entrance struct {
	at         time.Time // when the right was last shown
	subject    string    // whose right it was, by which it is looked up again; "": an order's
	repository string
}

type flightKey struct {
	peerID string
	digest blob.Digest
}

// NewGrants makes an empty one; sign is the supernode's.
func NewGrants(sign blob.SignFunc, now func() time.Time) *Grants {
	return &Grants{sign: sign, now: now, entered: map[flightKey]entrance{}, minted: map[flightKey]minted{}}
}

// enter notes that a node showed its right to a digest.
func (g *Grants) enter(k flightKey, subject, repository string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.entered) >= maxEntered {
		g.sweepLocked()
	}
	if len(g.entered) < maxEntered {
		g.entered[k] = entrance{g.now(), subject, repository}
	}
}

// inFlight tells by what right a node is in a flight, if it showed one not
// long ago.
func (g *Grants) inFlight(k flightKey) (entrance, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e, ok := g.entered[k]
	return e, ok && g.now().Sub(e.at) < flightLife
}

// Sweep forgets flights that are over; call it now and then.
func (g *Grants) Sweep() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sweepLocked()
}

func (g *Grants) sweepLocked() {
	for k, e := range g.entered {
		if g.now().Sub(e.at) >= flightLife {
			delete(g.entered, k)
		}
	}
	for k, m := range g.minted {
		if g.now().Sub(m.at) >= grantLife/2 {
			delete(g.minted, k)
		}
	}
}

// Remove forgets what nodes showed, as when they are turned away.
func (g *Grants) Remove(peerIDs ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for k := range g.entered {
		if slices.Contains(peerIDs, k.peerID) {
			delete(g.entered, k)
		}
	}
	for k := range g.minted {
		if slices.Contains(peerIDs, k.peerID) {
			delete(g.minted, k)
		}
	}
}

// mint makes out a grant, or gives a young one again.
func (g *Grants) mint(k flightKey) ([]byte, error) {
	now := g.now()
	g.mu.Lock()
	young, ok := g.minted[k]
	g.mu.Unlock()
	if ok && now.Sub(young.at) < grantLife/2 {
		return young.raw, nil
	}
	raw, err := token.NewGrant(k.peerID, k.digest, now.Add(grantLife), g.sign)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.minted) >= maxEntered {
		g.sweepLocked()
	}
	if len(g.minted) < maxEntered {
		g.minted[k] = minted{raw, now}
	}
	return raw, nil
}

// mayFetch reports whether a node may have a blob of this registry for a
// reader who names a repository: the reader's token or the node's own pool
// opens the repository, and the repository links the digest. Knowing a digest
// is no right, and naming it under another repository is none either. A flight
// goes on when the token that opened it has run out, for as long as whoever it
// was made out to has the right.
func (s nodeService) mayFetch(ctx context.Context, from caller, d blob.Digest, o blob.Origin) bool {
	k := flightKey{from.PeerID, d}
	subject, err := "", errors.New("no repository is named")
	if o.Ref.Repository != "" {
		subject, err = s.Auth.Puller(ctx, o.Token, from.PeerID, o.Ref.Repository)
	}
	if err != nil {
		e, ok := s.Grants.inFlight(k)
		return ok && (e.subject == "" || s.Auth.MayStillPull(ctx, e.subject, e.repository) == nil)
	}
	links, err := s.Registry.Holds(ctx, o.Ref.Repository, d)
	if err != nil {
		s.Log.Error("a piece grant was not decided", "repository", o.Ref.Repository, "digest", d, "error", err)
		return false
	}
	if links {
		s.Grants.enter(k, subject, o.Ref.Repository)
	}
	return links
}

// grant adds the leave to an answer that names neighbours.
func (s nodeService) grant(n *shoalv1.Neighbours, from caller, a tracker.Announcement) {
	if a.State != tracker.Wants || a.Seed != tracker.SeedHas {
		return
	}
	raw, err := s.Grants.mint(flightKey{from.PeerID, a.Digest})
	if err != nil {
		s.Log.Error("a piece grant was not made", "digest", a.Digest, "error", err)
		return
	}
	n.Grant = raw
}
