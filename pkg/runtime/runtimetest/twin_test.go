package runtimetest_test

import (
	"bytes"
	"crypto/rand"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/runtime/runtimetest"
)

func TestTwin(t *testing.T) {
	runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
		twin := runtimetest.NewTwin(t)
		return runtimetest.Subject{
			Content: twin,
			Add: func(t *testing.T) map[blob.Digest][]byte {
				out := map[blob.Digest][]byte{}
				for _, data := range [][]byte{bytes.Repeat([]byte(rand.Text()), 9), []byte(rand.Text())} {
					d, err := twin.Put(data)
					if err != nil {
						t.Fatal(err)
					}
					out[d] = data
				}
				return out
			},
			Clear: func(t *testing.T) {
				if err := twin.Collect(time.Now()); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}
