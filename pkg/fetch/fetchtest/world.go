package fetchtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
)

// Bytes makes n bytes that are the same for each seed, and their digest.
func Bytes(seed uint64, n int) ([]byte, blob.Digest) {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	data := make([]byte, n)
	rand.NewChaCha8(key).Read(data) //nolint:errcheck // it takes or gives every byte
	return data, blob.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(data)))
}

// Sign signs as signer, in the way that Verify checks.
func Sign(signer string) blob.SignFunc {
	return func(message []byte) (string, []byte, error) {
		sum := sha256.Sum256(append([]byte(signer), message...))
		return signer, sum[:], nil
	}
}

// Verify believes every signer whose signature Sign made.
func Verify(signer string, message, signature []byte) error {
	_, want, _ := Sign(signer)(message)
	if !bytes.Equal(want, signature) {
		return fmt.Errorf("not %s's signature", signer)
	}
	return nil
}

// Map signs the piece map of data.
func Map(d blob.Digest, data []byte, signer string) *blob.PieceMap {
	w := blob.NewMapWriter(int64(len(data)))
	w.Write(data) //nolint:errcheck // it takes or gives every byte
	m, err := blob.NewPieceMap(d, int64(len(data)), w.Hashes(), Sign(signer))
	if err != nil {
		panic(err)
	}
	return m
}

// Status is an error that carries an HTTP status.
type Status int

func (s Status) Error() string { return fmt.Sprintf("status %d", int(s)) }

// HTTPStatus is how a Fetcher learns of it.
func (s Status) HTTPStatus() int { return int(s) }

// Origin is a registry in memory.
type Origin struct {
	// Latency passes before each answer.
	Latency time.Duration
	// Chunk bytes take Pace; 0 means all at once.
	Chunk int
	Pace  time.Duration

	mu        sync.Mutex // guards what follows
	blobs     map[blob.Digest][]byte
	manifests map[string]Manifest
	fail      error
	failTimes int // -1 for ever
	tokens    map[string]bool
	cutAfter  int // bytes of each answer; 0 never
	requests  int
	bytes     int64
	first     time.Time
}

// Manifest is what an Origin answers for a reference.
type Manifest struct {
	Descriptor blob.Descriptor
	Body       []byte
	Record     *blob.TagRecord
}

// NewOrigin makes a registry that has nothing.
func NewOrigin() *Origin {
	return &Origin{blobs: map[blob.Digest][]byte{}, manifests: map[string]Manifest{}}
}

// Put adds a blob; data need not have the digest.
func (o *Origin) Put(d blob.Digest, data []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.blobs[d] = data
}

// PutManifest adds a manifest under a tag or digest.
func (o *Origin) PutManifest(reference string, m Manifest) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.manifests[reference] = m
}

// Fail makes the next n requests fail with err; n -1 means all.
func (o *Origin) Fail(err error, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fail, o.failTimes = err, n
}

// Need makes requests without one of these tokens fail with 401.
func (o *Origin) Need(tokens ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tokens = map[string]bool{}
	for _, t := range tokens {
		o.tokens[t] = true
	}
}

// CutAfter ends each answer after n bytes.
func (o *Origin) CutAfter(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cutAfter = n
}

// Served counts requests and bytes, and says when the first request came.
func (o *Origin) Served() (requests int, bytes int64, first time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.requests, o.bytes, o.first
}

func (o *Origin) enter(token string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.requests++
	if o.first.IsZero() {
		o.first = time.Now()
	}
	if o.failTimes != 0 && o.fail != nil {
		if o.failTimes > 0 {
			o.failTimes--
		}
		return o.fail
	}
	if o.tokens != nil && !o.tokens[token] {
		return Status(401)
	}
	return nil
}

// Blob implements fetch.Source.
func (o *Origin) Blob(ctx context.Context, _ blob.Ref, d blob.Digest, r blob.Range, token string) (io.ReadCloser, int64, error) {
	if err := sleep(ctx, o.Latency); err != nil {
		return nil, -1, err
	}
	if err := o.enter(token); err != nil {
		return nil, -1, err
	}
	o.mu.Lock()
	data, ok := o.blobs[d]
	cut := o.cutAfter
	o.mu.Unlock()
	if !ok {
		return nil, -1, Status(404)
	}
	size := int64(len(data))
	if r.End < 0 || r.End > size {
		r.End = size
	}
	part := data[r.Start:r.End]
	if cut > 0 && len(part) > cut {
		part = part[:cut]
	}
	return &body{ctx: ctx, o: o, r: bytes.NewReader(part)}, size, nil
}

// Manifest implements fetch.Upstream.
func (o *Origin) Manifest(ctx context.Context, _ blob.Ref, reference, token string, _ []string) (blob.Descriptor, []byte, error) {
	m, err := o.manifest(ctx, reference, token)
	return m.Descriptor, m.Body, err
}

func (o *Origin) manifest(ctx context.Context, reference, token string) (Manifest, error) {
	if err := sleep(ctx, o.Latency); err != nil {
		return Manifest{}, err
	}
	if err := o.enter(token); err != nil {
		return Manifest{}, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	m, ok := o.manifests[reference]
	if !ok {
		return Manifest{}, Status(404)
	}
	return m, nil
}

// Gateway makes the registry stand for a supernode's.
type Gateway struct{ *Origin }

// Manifest implements fetch.Gateway.
func (g Gateway) Manifest(ctx context.Context, _ blob.Ref, reference, token string, _ []string) (fetch.GatewayManifest, error) {
	m, err := g.manifest(ctx, reference, token)
	return fetch.GatewayManifest{Descriptor: m.Descriptor, Body: m.Body, Record: m.Record}, err
}

type body struct {
	ctx context.Context
	o   *Origin
	r   *bytes.Reader
}

func (b *body) Read(p []byte) (int, error) {
	if b.o.Chunk > 0 {
		p = p[:min(len(p), b.o.Chunk)]
		if err := sleep(b.ctx, b.o.Pace); err != nil {
			return 0, err
		}
	}
	n, err := b.r.Read(p)
	b.o.mu.Lock()
	b.o.bytes += int64(n)
	b.o.mu.Unlock()
	return n, err
}

func (b *body) Close() error { return nil }

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Swarm gives pieces of the blobs that it was given, each after Pace.
type Swarm struct {
	Pace   time.Duration
	Signer string

	mu      sync.Mutex // guards what follows
	blobs   map[blob.Digest][]byte
	stop    int // pieces after which it falls silent; -1 never
	given   int
	last    time.Time
	blocked bool
	classes []string
}

// NewSwarm makes a swarm that has nothing.
func NewSwarm(pace time.Duration) *Swarm {
	return &Swarm{Pace: pace, Signer: "seed", blobs: map[blob.Digest][]byte{}, stop: -1}
}

// Put adds a blob.
func (s *Swarm) Put(d blob.Digest, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[d] = data
}

// StopAfter makes the swarm fall silent after n pieces; -1 means never.
func (s *Swarm) StopAfter(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop = n
}

// Block makes the swarm's ports unreachable.
func (s *Swarm) Block() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blocked, s.stop = true, 0
}

// silent reports whether it gives nothing now; it keeps what it claimed, as
// a peer does that hangs.
func (s *Swarm) silent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stop >= 0 && s.given >= s.stop
}

// Given counts the pieces given, and says when the last one was.
func (s *Swarm) Given() (int, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.given, s.last
}

// Classes lists the traffic classes of the fetches, in order.
func (s *Swarm) Classes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.classes...)
}

// Size implements fetch.Swarm.
func (s *Swarm) Size(_ context.Context, d blob.Digest, _ blob.Peer, _ []byte) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blocked {
		return -1, context.DeadlineExceeded
	}
	if data, ok := s.blobs[d]; ok {
		return int64(len(data)), nil
	}
	return -1, blob.ErrNotHeld
}

// Fetch implements fetch.Swarm: it needs a first list of peers, and then
// gives the missing pieces in order.
func (s *Swarm) Fetch(ctx context.Context, r fetch.SwarmRequest) error {
	s.mu.Lock()
	s.classes = append(s.classes, r.Class)
	s.mu.Unlock()
	var peers []blob.Peer
	for len(peers) == 0 {
		select {
		case peers = <-r.Peers:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	data, ok := s.blobs[r.Blob.Digest()]
	s.mu.Unlock()
	if !ok {
		<-ctx.Done()
		return ctx.Err()
	}
	if err := r.Blob.AddProof(Map(r.Blob.Digest(), data, s.Signer), nil); err != nil {
		return err
	}
	for {
		lacking := r.Blob.Missing()
		if lacking.Count() == 0 {
			return nil
		}
		moved, err := s.round(ctx, r, lacking, data, peers[0])
		if err != nil {
			return err
		}
		if !moved {
			if err := sleep(ctx, 10*time.Millisecond); err != nil {
				return err
			}
		}
	}
}

func (s *Swarm) round(ctx context.Context, r fetch.SwarmRequest, lacking blob.Bitmap, data []byte, from blob.Peer) (bool, error) {
	for i := range lacking.All() {
		release, ok := r.Claim(i)
		if !ok {
			continue
		}
		defer release()
		for s.silent() {
			if err := sleep(ctx, 50*time.Millisecond); err != nil {
				return false, err
			}
		}
		if err := sleep(ctx, s.Pace); err != nil {
			return false, err
		}
		at := blob.PieceRange(int64(len(data)), i)
		want, _ := r.Blob.WantHash(i)
		if _, err := r.Blob.PutPiece(i, bytes.NewReader(data[at.Start:at.End]), &want); err != nil {
			return false, err
		}
		s.mu.Lock()
		s.given++
		s.last = time.Now()
		s.mu.Unlock()
		r.Got(from, at.Len())
		return true, nil
	}
	return false, nil
}

// Finder answers as it is told to.
type Finder struct {
	// After passes before the first answer.
	After time.Duration
	// Answer is the first answer.
	Answer blob.Neighbours

	mu    sync.Mutex // guards what follows
	dead  bool
	asked int
}

// Die makes the finder silent from now on.
func (f *Finder) Die() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
}

// Asked counts the questions.
func (f *Finder) Asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

func (f *Finder) answer() blob.Neighbours {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return blob.Neighbours{Silent: true}
	}
	return f.Answer
}

// Find implements fetch.Finder.
func (f *Finder) Find(ctx context.Context, w blob.Want) <-chan blob.Neighbours {
	out := make(chan blob.Neighbours)
	f.mu.Lock()
	f.asked++
	f.mu.Unlock()
	go func() {
		defer close(out)
		if sleep(ctx, f.After) != nil {
			return
		}
		n := f.answer()
		for {
			select {
			case out <- n:
			case <-ctx.Done():
				return
			}
			select {
			case <-w.Nudge:
			case <-ctx.Done():
				return
			}
			n = f.answer()
			n.OriginBytes = 0
		}
	}()
	return out
}
