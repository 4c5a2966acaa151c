package placement

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
)

const (
	// packFrom is from what size on a record is packed, in bytes. A placement of
	// a thousand containers in the middle of an update takes more than one commit
	// may, and says most things a thousand times.
	packFrom = 16 << 10
	// maxUnpacked bounds what is read of one, in bytes.
	maxUnpacked = 16 << 20
)

var errTooLong = errors.New("a record of more than 16 MiB is none of ours: restore a backup")

// packed is a record as it is stored.
func packed(data []byte) ([]byte, error) {
	if len(data) < packFrom {
		return data, nil
	}
	if len(data) > maxUnpacked {
		return nil, errTooLong
	}
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	err = w.Close()
	return out.Bytes(), err
}

// unpacked is packed undone. JSON does not begin as what is packed does.
func unpacked(data []byte) ([]byte, error) {
	if !bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		return data, nil
	}
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(r, maxUnpacked+1))
	if err == nil && len(out) > maxUnpacked {
		err = errTooLong
	}
	return out, err
}
