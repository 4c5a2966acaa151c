package swarm

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/shoalproject/shoal/pkg/blob"
)

// The headers of the exchange.
const (
	headerClass = "Shoal-Class"
	headerGrant = "Shoal-Grant"
	headerWant  = "Shoal-Want"
	headerAgain = "Shoal-Again"
	headerPiece = "Shoal-Piece"
	headerRetry = "Retry-After-Ms"

	// pathPrefix is where the routes are mounted.
	pathPrefix = "/swarm/v1/"
)

// The frames of the map and have streams: a type, the length of the payload
// in four bytes, the payload. Those of a have stream begin with the two bytes
// by which its client numbers the blobs it follows.
const (
	frameBatch    = 1 // blob.Batch
	frameMap      = 2 // blob.PieceMap; the map stream ends
	frameHave     = 3 // number of pieces in four bytes, bitmap
	frameGained   = 4 // indexes of four bytes each
	frameComplete = 5 // every piece is held; nothing more comes about this blob
	frameAbsent   = 6 // nothing is held, or not for this peer; nothing more comes
	frameFollow   = 7 // from the client: the digest, as text
	frameLeave    = 8 // from the client: nothing more is wanted about this blob
)

// errFrame is what the frame decoders wrap.
var errFrame = errors.New("bad frame")

// textRoom is what a map or batch may need beside its hashes.
const textRoom = 8 << 10

// maxDigest is the length of the longest digest, sha512 in hex.
const maxDigest = 7 + 128

// maxGrant bounds the grant that a peer shows, in bytes; what it says is not
// this package's matter.
const maxGrant = 1024

func decodeGrant(text string) ([]byte, error) {
	if len(text) > base64.StdEncoding.EncodedLen(maxGrant) {
		return nil, fmt.Errorf("header %s is longer than a grant", headerGrant)
	}
	grant, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("header %s is no base64", headerGrant)
	}
	return grant, nil
}

// A wish to follow a blob is its digest and, after a zero byte, the grant.
func encodeFollow(d blob.Digest, grant []byte) []byte {
	return append(append([]byte(d), 0), grant...)
}

func decodeFollow(payload []byte) (blob.Digest, []byte, error) {
	text, grant, found := bytes.Cut(payload, []byte{0})
	if !found {
		return "", nil, fmt.Errorf("%w: a wish to follow without its end", errFrame)
	}
	d, err := blob.ParseDigest(string(text))
	return d, bytes.Clone(grant), err
}

// maxFrame bounds the payload of a frame for a blob of so many pieces.
func maxFrame(kind byte, pieces int) int {
	switch kind {
	case frameBatch, frameMap:
		return pieces*len(blob.PieceHash{}) + textRoom
	case frameHave:
		return 2 + 4 + (pieces+7)/8
	case frameGained:
		return 2 + 4*pieces
	case frameFollow:
		return 2 + maxDigest + 1 + maxGrant
	case frameComplete, frameAbsent, frameLeave:
		return 2
	}
	return 0
}

func appendFrame(b []byte, kind byte, payload []byte) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// readFrame reads one frame of a stream about a blob of so many pieces. io.EOF
// comes only between frames. buf is used again when it is large enough.
func readFrame(r io.Reader, pieces int, buf []byte) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	kind = head[0]
	if kind < frameBatch || kind > frameLeave {
		return 0, nil, fmt.Errorf("%w: type %d", errFrame, kind)
	}
	n := binary.BigEndian.Uint32(head[1:])
	if limit := maxFrame(kind, pieces); uint64(n) > uint64(limit) {
		return 0, nil, fmt.Errorf("%w: %d bytes of type %d, at most %d are taken", errFrame, n, kind, limit)
	}
	payload = slices.Grow(buf[:0], int(n))[:n]
	if _, err := io.ReadFull(r, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return kind, payload, nil
}

// appendTagged adds a frame of a have stream.
func appendTagged(b []byte, kind byte, id uint16, payload []byte) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(2+len(payload)))
	b = binary.BigEndian.AppendUint16(b, id)
	return append(b, payload...)
}

// cutTag takes the number of the blob off a frame of a have stream.
func cutTag(payload []byte) (id uint16, rest []byte, err error) {
	if len(payload) < 2 {
		return 0, nil, fmt.Errorf("%w: no room for a blob's number", errFrame)
	}
	return binary.BigEndian.Uint16(payload), payload[2:], nil
}

func encodeHave(have blob.Bitmap) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(have.Len())), have.Bytes()...)
}

func decodeHave(payload []byte, pieces int) (blob.Bitmap, error) {
	if len(payload) < 4 || binary.BigEndian.Uint32(payload) != uint32(pieces) {
		return blob.Bitmap{}, fmt.Errorf("%w: not a bitmap of %d pieces", errFrame, pieces)
	}
	have, err := blob.BitmapFromBytes(pieces, payload[4:])
	if err != nil {
		return blob.Bitmap{}, fmt.Errorf("%w: %w", errFrame, err)
	}
	return have, nil
}

func encodeGained(gained blob.Bitmap) []byte {
	var payload []byte
	for i := range gained.All() {
		payload = binary.BigEndian.AppendUint32(payload, uint32(i))
	}
	return payload
}

func decodeGained(payload []byte, pieces int) ([]int, error) {
	if len(payload)%4 != 0 {
		return nil, fmt.Errorf("%w: %d bytes are no list of indexes", errFrame, len(payload))
	}
	out := make([]int, 0, len(payload)/4)
	for ; len(payload) > 0; payload = payload[4:] {
		i := binary.BigEndian.Uint32(payload)
		if i >= uint32(pieces) {
			return nil, fmt.Errorf("%w: piece %d of %d", errFrame, i, pieces)
		}
		out = append(out, int(i))
	}
	return out, nil
}

func encodeWant(want blob.Bitmap) string {
	return base64.StdEncoding.EncodeToString(want.Bytes())
}

func decodeWant(text string, pieces int) (blob.Bitmap, error) {
	if len(text) > base64.StdEncoding.EncodedLen((pieces+7)/8) {
		return blob.Bitmap{}, fmt.Errorf("%s has %d characters, too many for %d pieces", headerWant, len(text), pieces)
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return blob.Bitmap{}, fmt.Errorf("%s: %w", headerWant, err)
	}
	want, err := blob.BitmapFromBytes(pieces, raw)
	if err != nil {
		return blob.Bitmap{}, fmt.Errorf("%s: %w", headerWant, err)
	}
	return want, nil
}
