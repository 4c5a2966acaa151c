package blob

// Origin says where a blob is known outside the swarm. Token is a pull token
// of that registry for that repository, "" without one; it lives in memory
// for as long as a flight and is never written or logged.
type Origin struct {
	Ref   Ref
	Token string
}

// Want is a question to discovery: who holds this digest?
type Want struct {
	Digest Digest
	Size   int64 // bytes; -1 when not known yet
	Origin Origin
	// Held is the number of pieces this node has now. It may be nil, and is
	// called from any goroutine.
	Held func() int
	// Nudge carries a value when nothing moves and an answer is wanted now.
	// It may be nil.
	Nudge <-chan struct{}
}

// Neighbours is one answer of discovery. The latest answer replaces the
// earlier ones.
type Neighbours struct {
	Peers []Peer
	// Silent says that nobody answered in time: Peers is what was last heard.
	Silent bool
	// OriginBytes is how many more bytes this node may take from the origin
	// itself. Each answer adds to those before.
	OriginBytes int64
	// RefusedStatus is the HTTP status by which the origin refused the digest
	// to the seed, 0 when it did not.
	RefusedStatus int
	RefusedReason string
	// Grant is a supernode's signed leave to fetch the pieces of this digest,
	// to be shown to each peer; nil from those who cannot give one.
	Grant []byte
}
