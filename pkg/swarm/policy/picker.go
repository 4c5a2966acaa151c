package policy

import (
	"math/rand/v2"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// Picker chooses, for one blob on one host, which piece to ask which
// neighbour for. Seeds that hand out pieces by themselves are not in it.
type Picker struct {
	params    Params
	rand      *rand.Rand
	pieces    int
	holders   []int // how many neighbours hold each piece
	neighbour map[string]*neighbour
	order     []*neighbour // the same, in the order they came: a map's order is no seed's
}

type neighbour struct {
	id   string
	peer *Peer
	have blob.Bitmap
}

// Choice is one request to make.
type Choice struct {
	Piece int
	Peer  string
}

// NewPicker makes a picker for a blob of so many pieces.
func NewPicker(params Params, pieces int, r *rand.Rand) *Picker {
	return &Picker{
		params: params, rand: r, pieces: pieces,
		holders:   make([]int, pieces),
		neighbour: map[string]*neighbour{},
	}
}

// Add makes a neighbour known; peer is shared with the pickers of other blobs.
func (p *Picker) Add(id string, peer *Peer) {
	if p.neighbour[id] != nil {
		return
	}
	n := &neighbour{id: id, peer: peer, have: blob.NewBitmap(p.pieces)}
	p.neighbour[id] = n
	p.order = append(p.order, n)
}

// Remove forgets a neighbour.
func (p *Picker) Remove(id string) {
	n := p.neighbour[id]
	if n == nil {
		return
	}
	p.Reset(id, blob.NewBitmap(p.pieces))
	delete(p.neighbour, id)
	for i, o := range p.order {
		if o == n {
			p.order = append(p.order[:i], p.order[i+1:]...)
			return
		}
	}
}

// Reset replaces what a neighbour is said to hold.
func (p *Picker) Reset(id string, have blob.Bitmap) {
	n := p.neighbour[id]
	if n == nil || have.Len() != p.pieces {
		return
	}
	for i := range n.have.All() {
		p.holders[i]--
	}
	n.have = have.Clone()
	for i := range n.have.All() {
		p.holders[i]++
	}
}

// Gained adds a piece to what a neighbour is said to hold.
func (p *Picker) Gained(id string, piece int) {
	if n := p.neighbour[id]; n != nil && piece >= 0 && piece < p.pieces && !n.have.Has(piece) {
		n.have.Set(piece)
		p.holders[piece]++
	}
}

// Lost takes a piece from what a neighbour is said to hold.
func (p *Picker) Lost(id string, piece int) {
	if n := p.neighbour[id]; n != nil && n.have.Has(piece) {
		n.have.Clear(piece)
		p.holders[piece]--
	}
}

// Held is how many neighbours are said to hold a piece.
func (p *Picker) Held(piece int) int { return p.holders[piece] }

// Scarce is which of the wanted pieces fewer than two neighbours that answer
// are said to hold. One is as good as none: if it falls silent they are lost,
// and alone it is slower than it and a seed together.
func (p *Picker) Scarce(now time.Time, want blob.Bitmap) blob.Bitmap {
	if want.Count() == 0 {
		return want
	}
	scarce, nobodys := want, want
	for _, n := range p.order {
		if !n.peer.answers(now) {
			continue
		}
		once := want.Minus(nobodys)
		twice := once.Minus(once.Minus(n.have))
		scarce, nobodys = scarce.Minus(twice), nobodys.Minus(n.have)
	}
	return scarce
}

// Pick chooses among the wanted pieces: what a reader waits for comes first,
// then a mixture of low index, rarity and chance. ok is false when no
// neighbour that may be asked now holds any of them.
func (p *Picker) Pick(now time.Time, want, demand blob.Bitmap) (c Choice, ok bool) {
	ready := p.ready(now)
	if len(ready) == 0 {
		return Choice{}, false
	}
	usual := p.usual()
	best, found := 0.0, false
	for i := range want.All() {
		if p.holders[i] == 0 {
			continue
		}
		score := p.score(i, demand)
		if found && score >= best {
			continue
		}
		if n := p.cheapest(ready, i, usual); n != nil {
			c, best, found = Choice{Piece: i, Peer: n.id}, score, true
		}
	}
	return c, found
}

// score is low for what should be asked for first.
func (p *Picker) score(piece int, demand blob.Bitmap) float64 {
	if demand.Has(piece) {
		return -1e6 + float64(piece)
	}
	rarity := float64(p.holders[piece]) / float64(len(p.order))
	index := float64(piece) / float64(p.pieces)
	return rarity + p.params.IndexWeight*index + p.params.Jitter*p.rand.Float64()
}

// Second chooses a peer to hedge a piece with, other than those asked.
func (p *Picker) Second(now time.Time, piece int, asked ...string) (id string, ok bool) {
	ready := p.ready(now)
	usual := p.usual()
	var rest []*neighbour
next:
	for _, n := range ready {
		for _, a := range asked {
			if n.id == a {
				continue next
			}
		}
		rest = append(rest, n)
	}
	if n := p.cheapest(rest, piece, usual); n != nil {
		return n.id, true
	}
	return "", false
}

func (p *Picker) ready(now time.Time) []*neighbour {
	out := make([]*neighbour, 0, len(p.order))
	for _, n := range p.order {
		most := p.params.PerPeer
		if n.peer.quiet {
			most = 1 // to hear whether it is back
		}
		if n.peer.Outstanding < most && n.peer.Ready(now) {
			out = append(out, n)
		}
	}
	return out
}

// usual is the mean pace of those whose pace is known.
func (p *Picker) usual() time.Duration {
	var sum time.Duration
	known := 0
	for _, n := range p.order {
		if n.peer.pace > 0 {
			sum += n.peer.pace
			known++
		}
	}
	if known == 0 {
		return 100 * time.Millisecond
	}
	return sum / time.Duration(known)
}

// cheapest is the peer among the ready that holds the piece and is guessed to
// answer soonest, with chance among near equals.
func (p *Picker) cheapest(ready []*neighbour, piece int, usual time.Duration) *neighbour {
	var best *neighbour
	low := 0.0
	for _, n := range ready {
		if !n.have.Has(piece) {
			continue
		}
		cost := n.peer.cost(usual) * (0.75 + 0.5*p.rand.Float64())
		if best == nil || cost < low {
			best, low = n, cost
		}
	}
	return best
}
