package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// The bounds of an event's fields in bytes; what is longer is cut.
const (
	maxSubject = 256
	maxAction  = 64
	maxObject  = 512
	maxProject = 128
	maxFrom    = 64
	maxReason  = 256
	maxDetails = 8
	maxName    = 64
	maxDetail  = 256

	// maxLine bounds a row as it is stored: all fields full of characters that
	// JSON writes as six.
	maxLine = 32 << 10
)

const (
	// Unknown is the subject of who did not say who they are.
	Unknown = "(unknown)"
	// Supernode is the subject of what the supernode does by itself.
	Supernode = "(supernode)"
)

// Event is one thing that somebody did or tried.
type Event struct {
	Subject string `json:"subject"` // a user, robot$PROJECT+NAME, node:PEER, or a word in round brackets
	Action  string `json:"action"`  // such as image.push
	Object  string `json:"object,omitempty"`
	Project string `json:"project,omitempty"` // whose admins see the row
	From    string `json:"from,omitempty"`    // address
	Allowed bool   `json:"allowed"`
	Reason  string `json:"reason,omitempty"` // why it was refused, or what it failed by
	// Detail says more by name; at most 8 of it are kept.
	Detail map[string]string `json:"detail,omitempty"`
	// Often lets repeats be counted instead of written, as refusals are.
	Often bool `json:"-"`
	// Times is how often it happened, where somebody counted; 0 is once.
	Times uint64 `json:"-"`
}

// Row is an event as it was written.
type Row struct {
	Sequence uint64    `json:"sequence"` // from 1, without gaps
	Time     time.Time `json:"time"`
	Event
	// More counts events of this kind that were not written one by one since
	// the row that tells of the first.
	More uint64 `json:"more,omitempty"`
	// Previous is the hash of the line before.
	Previous Hash `json:"previous"`
}

// Hash is the SHA-256 of a row's line, without its line feed.
type Hash [sha256.Size]byte

// String is the hash in hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(h)) {
		return fmt.Errorf("a hash has %d digits, not %d", hex.EncodedLen(len(h)), len(text))
	}
	_, err := hex.Decode(h[:], text)
	return err
}

func hashOf(line []byte) Hash { return sha256.Sum256(line) }

// bounded is the event with every field within its limit and in UTF-8.
func (e Event) bounded() Event {
	if e.Subject == "" {
		e.Subject = Unknown
	}
	e.Subject, e.Action, e.Object = cut(e.Subject, maxSubject), cut(e.Action, maxAction), cut(e.Object, maxObject)
	e.Project, e.From, e.Reason = cut(e.Project, maxProject), cut(e.From, maxFrom), cut(e.Reason, maxReason)
	names := slices.Sorted(maps.Keys(e.Detail))
	names = names[:min(len(names), maxDetails)]
	var detail map[string]string
	for _, name := range names {
		if detail == nil {
			detail = make(map[string]string, len(names))
		}
		detail[cut(name, maxName)] = cut(e.Detail[name], maxDetail)
	}
	e.Detail = detail
	return e
}

// cut shortens s to at most limit bytes, and says so by its last character.
func cut(s string, limit int) string {
	const mark = "…"
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	end := limit - len(mark)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + mark
}

// encode makes the row's line, without its line feed.
func (r *Row) encode() ([]byte, error) {
	line, err := json.Marshal(r)
	if err == nil && len(line) > maxLine {
		err = fmt.Errorf("it is %d bytes long, at most %d are kept", len(line), maxLine)
	}
	if err != nil {
		return nil, fmt.Errorf("encode audit row %d: %w", r.Sequence, err)
	}
	return line, nil
}

// decode reads a line. What it means is for the caller to check: that the row
// is the next one, and that it follows from the one before.
func decode(line []byte) (Row, error) {
	var r Row
	if len(line) > maxLine {
		return r, fmt.Errorf("a row is %d bytes long, at most %d are read", len(line), maxLine)
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return Row{}, fmt.Errorf("a row cannot be read: %w", err)
	}
	if r.Sequence == 0 {
		return Row{}, errors.New("a row has no sequence")
	}
	return r, nil
}
