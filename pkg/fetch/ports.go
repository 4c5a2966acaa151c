package fetch

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// Blob is a blob of the store, whole or growing. pkg/store's Blob fits it.
type Blob interface {
	io.ReaderAt
	Digest() blob.Digest
	Size() int64
	// Progress says which pieces may be served to neighbours; the channel is
	// closed at the next change.
	Progress() (blob.Bitmap, <-chan struct{})
	// Proof is the final signed map (nil when unknown) and the signed
	// provisional batches; the channel is closed at the next change.
	Proof() (*blob.PieceMap, []*blob.Batch, <-chan struct{})
	// PutPiece streams piece i from r into place. want is nil for bytes of an
	// origin. A piece already there is nil and leaves r alone.
	PutPiece(i int, r io.Reader, want *blob.PieceHash) (blob.PieceHash, error)
	// Missing are the pieces that were not written yet.
	Missing() blob.Bitmap
	// AddProof keeps a map or a batch whose signature the caller verified.
	AddProof(m *blob.PieceMap, b *blob.Batch) error
	WantHash(i int) (blob.PieceHash, bool)
	// Commit verifies the whole digest and makes the blob durable.
	Commit(ctx context.Context) error
	Complete() bool
	// NewReader tails the growing blob.
	NewReader(ctx context.Context, r blob.Range) io.ReadCloser
	// Demand are the pieces that readers wait for right now; the channel is
	// closed at the next change.
	Demand() (blob.Bitmap, <-chan struct{})
	// Fail wakes the readers with err.
	Fail(err error)
	// OpenFile opens a complete blob's file.
	OpenFile() (*os.File, error)
	// Hashes are the piece hashes of a complete blob.
	Hashes(ctx context.Context) ([]blob.PieceHash, error)
	Close() error
}

// Store keeps blobs on this host. StoreOf makes one of pkg/store's methods.
type Store interface {
	// Get wraps blob.ErrNotHeld when the digest is unknown.
	Get(d blob.Digest) (Blob, error)
	// Create gets or creates; it wraps blob.ErrFull when there is no room.
	Create(d blob.Digest, size int64) (Blob, error)
}

// StoreOf lets a store whose methods return a concrete blob type stand for a
// Store.
func StoreOf[B Blob](get func(blob.Digest) (B, error), create func(blob.Digest, int64) (B, error)) Store {
	return storeFuncs[B]{get: get, create: create}
}

type storeFuncs[B Blob] struct {
	get    func(blob.Digest) (B, error)
	create func(blob.Digest, int64) (B, error)
}

func (s storeFuncs[B]) Get(d blob.Digest) (Blob, error) {
	b, err := s.get(d)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (s storeFuncs[B]) Create(d blob.Digest, size int64) (Blob, error) {
	b, err := s.create(d, size)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// SwarmRequest asks the swarm to fill a blob.
type SwarmRequest struct {
	Blob  Blob
	Peers <-chan []blob.Peer // the latest list wins
	Class string
	// Claim guards a piece against the origin fetching it at the same time;
	// not ok means that the origin is at it.
	Claim func(i int) (release func(), ok bool)
	// Got accounts for bytes that came from a peer.
	Got func(p blob.Peer, bytes int64)
	// Grant is the supernode's leave that is shown to peers, the latest one.
	Grant func() []byte
	// Hedged counts a piece that was asked for a second time.
	Hedged func()
}

// Swarm fetches pieces from neighbours. pkg/swarm's Exchange fits through a
// few lines that copy the request.
type Swarm interface {
	// Fetch returns nil when the blob has every piece, and otherwise when ctx
	// ends or nobody is left to ask.
	Fetch(ctx context.Context, r SwarmRequest) error
	// Size asks a peer for the size that its signed map or batches state. It
	// also tells whether the peer can be reached: an error that wraps neither
	// a *net.OpError nor the context's end is an answer.
	Size(ctx context.Context, d blob.Digest, p blob.Peer, grant []byte) (int64, error)
}

// Finder names neighbours: the tracker, or the DHT below it. The channel is
// closed after ctx ended or when the finder is done.
type Finder interface {
	Find(ctx context.Context, w blob.Want) <-chan blob.Neighbours
}

// Source hands out byte ranges of a blob over HTTP: a registry outside, or
// the supernode's own.
type Source interface {
	// Blob opens the range; End -1 means to the end. size is that of the
	// whole blob, -1 when it was not said.
	Blob(ctx context.Context, ref blob.Ref, d blob.Digest, r blob.Range, token string) (rc io.ReadCloser, size int64, err error)
}

// Upstream reads registries outside. pkg/upstream's Client fits.
type Upstream interface {
	Source
	Manifest(ctx context.Context, ref blob.Ref, reference, token string, accept []string) (blob.Descriptor, []byte, error)
}

// Gateway is the supernode's registry, over HTTPS. For an upstream's
// reference it is the pull-through cache.
type Gateway interface {
	Source
	// Manifest returns, beside the body, how old the answer is and, for a
	// tag, the signed record of it when the supernode gave one.
	Manifest(ctx context.Context, ref blob.Ref, reference, token string, accept []string) (GatewayManifest, error)
}

// GatewayManifest is the supernode's answer for a manifest.
type GatewayManifest struct {
	Descriptor blob.Descriptor
	Body       []byte
	Age        time.Duration   // how long ago it was known to be current
	Record     *blob.TagRecord // nil when there is none
}

// Local opens complete blobs in the container runtime's own content store. It
// wraps blob.ErrNotHeld for others.
type Local interface {
	OpenLocal(d blob.Digest) (*os.File, error)
}

// TagStore keeps the signed tag records that this node saw.
type TagStore interface {
	PutTag(r *blob.TagRecord) error
	// Tag returns nil when there is none.
	Tag(ref blob.Ref, tag string) (*blob.TagRecord, error)
}

// TagFinder asks neighbours for signed tag records.
type TagFinder interface {
	FindTags(ctx context.Context, ref blob.Ref, tag string) ([]*blob.TagRecord, error)
}
