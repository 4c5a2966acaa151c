package audit

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/durable"
)

const (
	endsFile = "ends.json"
	// endsContext begins what the signature is over.
	endsContext = "shoal audit ends v1\x00"
)

// place is a row's place in the chain. The zero place is before the first row.
type place struct {
	Sequence uint64 `json:"sequence"`
	Hash     Hash   `json:"hash"`
}

// ends are where the chain begins and ends.
type ends struct {
	Before place `json:"before"` // the last row that was removed by age or size
	Last   place `json:"last"`
}

func (e ends) message() []byte {
	message := []byte(endsContext)
	for _, p := range []place{e.Before, e.Last} {
		message = binary.BigEndian.AppendUint64(message, p.Sequence)
		message = append(message, p.Hash[:]...)
	}
	return message
}

// signedEnds is the file.
type signedEnds struct {
	ends
	Signer    string `json:"signer"`
	Signature []byte `json:"signature"`
}

func (e ends) write(path string, sign blob.SignFunc) error {
	signer, signature, err := sign(e.message())
	if err != nil {
		return fmt.Errorf("sign the audit's ends: %w", err)
	}
	data, err := json.Marshal(signedEnds{e, signer, signature})
	if err != nil {
		return fmt.Errorf("encode the audit's ends: %w", err)
	}
	return durable.WriteFile(path, append(data, '\n'), 0o600)
}

// readEnds reads the ends and checks their signature. A *BrokenError says that
// they are somebody else's work; an error that wraps os.ErrNotExist, that there
// are none.
func readEnds(path string, verify blob.VerifyFunc) (ends, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return ends{}, err
	}
	var s signedEnds
	if err := json.Unmarshal(data, &s); err != nil {
		return ends{}, &BrokenError{What: endsFile + " cannot be read: " + err.Error()}
	}
	if err := verify(s.Signer, s.message(), s.Signature); err != nil {
		return ends{}, &BrokenError{Sequence: s.Last.Sequence, What: "the signature in " + endsFile + " does not hold: " + err.Error()}
	}
	return s.ends, nil
}

// BrokenError names the first place of the chain that does not hold.
type BrokenError struct {
	Sequence uint64 // of the row; 0 where none can be named
	What     string
}

func (e *BrokenError) Error() string {
	if e.Sequence == 0 {
		return "the audit is broken: " + e.What
	}
	return fmt.Sprintf("the audit is broken at row %d: %s", e.Sequence, e.What)
}

// broken is the *BrokenError in err, or nil.
func broken(err error) *BrokenError {
	var b *BrokenError
	errors.As(err, &b)
	return b
}
