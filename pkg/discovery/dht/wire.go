package dht

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	// maxStatement bounds a membership statement.
	maxStatement = 4 << 10
	// maxRequest bounds a holds or tags request.
	maxRequest = 1 << 10
	// maxHolds bounds a holds answer: the longest bitmap and its frame.
	maxHolds = blob.MaxPieces/8 + 512
	// maxTags bounds a tags answer, maxRecords the records in it.
	maxTags    = 64 << 10
	maxRecords = 16

	maxName = 255 // bytes of a registry, repository, tag or address

	flagHeld     = 1
	flagComplete = 2
	flagSeed     = 4
)

// errBadMessage is what the decoders of this file wrap.
var errBadMessage = errors.New("bad discovery message")

// readFrame reads a message of at most limit bytes with its length before it
// (uint32, big endian). The length is checked before memory is taken.
func readFrame(r io.Reader, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("read length of message: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if uint64(n) > uint64(limit) {
		return nil, fmt.Errorf("%w: %d bytes long, at most %d are taken", errBadMessage, n, limit)
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, fmt.Errorf("read message of %d bytes: %w", n, err)
	}
	return raw, nil
}

func writeFrame(w io.Writer, raw []byte) error {
	out := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(raw)), uint32(len(raw)))
	if _, err := w.Write(append(out, raw...)); err != nil {
		return fmt.Errorf("write message of %d bytes: %w", len(raw), err)
	}
	return nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// parser takes a message apart; the first fault sticks.
type parser struct {
	raw []byte
	err error
}

func (p *parser) take(n int) []byte {
	if p.err == nil && n > len(p.raw) {
		p.err = fmt.Errorf("%w: cut short, %d bytes wanted and %d left", errBadMessage, n, len(p.raw))
	}
	if p.err != nil {
		return nil
	}
	out := p.raw[:n]
	p.raw = p.raw[n:]
	return out
}

func (p *parser) number(bytes int) (n uint64) {
	for _, b := range p.take(bytes) {
		n = n<<8 | uint64(b)
	}
	return n
}

func (p *parser) text() string {
	n := int(p.number(2))
	if n > maxName && p.err == nil {
		p.err = fmt.Errorf("%w: a name of %d bytes, at most %d are taken", errBadMessage, n, maxName)
	}
	return string(p.take(n))
}

func (p *parser) end() error {
	if p.err == nil && len(p.raw) > 0 {
		p.err = fmt.Errorf("%w: %d bytes too many", errBadMessage, len(p.raw))
	}
	return p.err
}

// holdsAnswer is what a holder says about a blob. The zero value says that it
// holds nothing, or nothing for who asks.
type holdsAnswer struct {
	held    bool
	seed    bool
	addr    string // host:port of the piece listener; host may be unspecified
	holding Holding
}

func (a holdsAnswer) encode() []byte {
	if !a.held {
		return []byte{0}
	}
	flags := byte(flagHeld)
	if a.holding.Complete {
		flags |= flagComplete
	}
	if a.seed {
		flags |= flagSeed
	}
	b := binary.BigEndian.AppendUint64([]byte{flags}, uint64(a.holding.Size))
	b = appendText(b, a.addr)
	return append(b, a.holding.Have.Bytes()...)
}

func decodeHolds(raw []byte) (holdsAnswer, error) {
	p := parser{raw: raw}
	flags := p.number(1)
	if flags&flagHeld == 0 {
		return holdsAnswer{}, p.end()
	}
	a := holdsAnswer{held: true, seed: flags&flagSeed != 0}
	a.holding.Complete = flags&flagComplete != 0
	size := p.number(8)
	a.addr = p.text()
	if p.err != nil {
		return holdsAnswer{}, p.err
	}
	if size > blob.MaxPieces*blob.MaxPieceLength {
		return holdsAnswer{}, fmt.Errorf("%w: a blob of %d bytes", errBadMessage, size)
	}
	a.holding.Size = int64(size)
	var err error
	a.holding.Have, err = blob.BitmapFromBytes(blob.PieceCount(a.holding.Size), p.raw)
	if err != nil {
		return holdsAnswer{}, fmt.Errorf("%w: %w", errBadMessage, err)
	}
	return a, nil
}

type tagsRequest struct {
	ref blob.Ref
	tag string
}

func (q tagsRequest) encode() []byte {
	return appendText(appendText(appendText(nil, q.ref.Registry), q.ref.Repository), q.tag)
}

func decodeTagsRequest(raw []byte) (tagsRequest, error) {
	p := parser{raw: raw}
	q := tagsRequest{ref: blob.Ref{Registry: p.text(), Repository: p.text()}, tag: p.text()}
	return q, p.end()
}

// encodeTags writes as many of the records as the bounds allow.
func encodeTags(records []*blob.TagRecord) []byte {
	b := []byte{0}
	for _, r := range records[:min(len(records), maxRecords)] {
		raw := r.Encode()
		if len(b)+2+len(raw) > maxTags || len(raw) > 1<<16-1 {
			break
		}
		b = appendText(b, string(raw))
		b[0]++
	}
	return b
}

func decodeTags(raw []byte) ([]*blob.TagRecord, error) {
	p := parser{raw: raw}
	n := int(p.number(1))
	if n > maxRecords {
		return nil, fmt.Errorf("%w: %d tag records, at most %d are taken", errBadMessage, n, maxRecords)
	}
	var out []*blob.TagRecord
	for range n {
		record, err := blob.DecodeTagRecord(p.take(int(p.number(2))))
		if p.err != nil {
			return nil, p.err
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errBadMessage, err)
		}
		out = append(out, record)
	}
	return out, p.end()
}

// pieceAddr is the host:port to ask for pieces: what the holder advertised,
// with the address it was reached at where it named none. Names, and
// addresses that a holder has no business to send others to, are refused.
func pieceAddr(advertised string, seen netip.Addr) (string, error) {
	host, portText, err := net.SplitHostPort(advertised)
	if err != nil {
		return "", fmt.Errorf("%w: piece address: %w", errBadMessage, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return "", fmt.Errorf("%w: piece address %q: no port", errBadMessage, advertised)
	}
	addr := seen.Unmap()
	if host != "" {
		named, err := netip.ParseAddr(host)
		if err != nil {
			return "", fmt.Errorf("%w: piece address %q: %w", errBadMessage, advertised, err)
		}
		if named = named.Unmap(); !named.IsUnspecified() {
			addr = named
		}
	}
	switch {
	case !addr.IsValid(), addr.IsMulticast(), addr.IsUnspecified(), addr.Zone() != "",
		addr.IsLinkLocalUnicast() && addr != seen.Unmap(),
		addr.IsLoopback() && !seen.IsLoopback():
		return "", fmt.Errorf("%w: piece address %q, seen from %s, is not one to dial", errBadMessage, advertised, seen)
	}
	return netip.AddrPortFrom(addr, uint16(port)).String(), nil
}
