package swarm

import (
	"bytes"
	"testing"

	"github.com/shoalproject/shoal/pkg/blob"
)

// FuzzFrames reads a stranger's bytes as a have stream and as a map stream.
func FuzzFrames(f *testing.F) {
	have := blob.NewBitmap(9)
	have.Set(3)
	f.Add(appendTagged(nil, frameHave, 1, encodeHave(have)))
	f.Add(appendTagged(nil, frameGained, 1, encodeGained(have)))
	f.Add(appendTagged(appendTagged(nil, frameAbsent, 2, nil), frameComplete, 2, nil))
	f.Add(appendFrame(nil, frameBatch, []byte("batch")))
	f.Add(appendFrame(nil, frameMap, []byte("map")))
	f.Add([]byte{frameGained, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bytes.NewReader(raw)
		var buf []byte
		for {
			kind, payload, err := readFrame(r, 9, buf)
			if err != nil {
				return
			}
			if limit := maxFrame(kind, 9); len(payload) > limit {
				t.Fatalf("%d bytes of type %d, the limit is %d", len(payload), kind, limit)
			}
			buf = payload
			_, rest, err := cutTag(payload)
			if err != nil {
				continue
			}
			if have, err := decodeHave(rest, 9); err == nil && !bytes.Equal(encodeHave(have), rest) {
				t.Fatalf("a bitmap changes on its way: %x", rest)
			}
			if gained, err := decodeGained(rest, 9); err == nil {
				for _, i := range gained {
					if i < 0 || i >= 9 {
						t.Fatalf("piece %d of 9", i)
					}
				}
			}
		}
	})
}

func FuzzWant(f *testing.F) {
	f.Add("AA==")
	f.Add("/4A=")
	f.Fuzz(func(t *testing.T, text string) {
		want, err := decodeWant(text, 9)
		if err == nil && want.Len() != 9 {
			t.Fatalf("%d pieces of 9", want.Len())
		}
	})
}

func TestFramesKeepTheirBounds(t *testing.T) {
	long := appendFrame(nil, frameHave, make([]byte, 100))
	if _, _, err := readFrame(bytes.NewReader(long), 9, nil); err == nil {
		t.Error("a bitmap of 100 bytes for 9 pieces is taken")
	}
	if _, _, err := readFrame(bytes.NewReader([]byte{99, 0, 0, 0, 0}), 9, nil); err == nil {
		t.Error("a frame of an unknown type is taken")
	}
	whole := appendTagged(nil, frameComplete, 1, nil)
	for n := 1; n < len(whole); n++ {
		if _, _, err := readFrame(bytes.NewReader(whole[:n]), 9, nil); err == nil {
			t.Errorf("a frame cut after %d bytes is taken", n)
		}
	}
}
