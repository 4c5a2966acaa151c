package dht

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	dsq "github.com/ipfs/go-datastore/query"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/shoalproject/shoal/pkg/blob"
)

func protocolID(s string) protocol.ID { return protocol.ID(s) }

func listenAddr(t *testing.T, n *testNode) string {
	t.Helper()
	port, err := n.host.Addrs()[0].ValueForProtocol(ma.P_TCP)
	if err != nil {
		t.Fatal(err)
	}
	return "127.0.0.1:" + port
}

func FuzzDecodeHolds(f *testing.F) {
	have := blob.NewBitmap(blob.PieceCount(testSize))
	have.Set(1)
	f.Add(holdsAnswer{held: true, seed: true, addr: "10.0.0.1:4001", holding: Holding{Size: testSize, Have: have}}.encode())
	f.Add(holdsAnswer{}.encode())
	f.Add([]byte{1, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := decodeHolds(raw)
		if err != nil || !a.held {
			return
		}
		if a.holding.Have.Len() != blob.PieceCount(a.holding.Size) {
			t.Fatalf("bitmap of %d bits for %d bytes", a.holding.Have.Len(), a.holding.Size)
		}
		back, err := decodeHolds(a.encode())
		if err != nil || fmt.Sprint(back) != fmt.Sprint(a) {
			t.Fatalf("%v became %v, %v", a, back, err)
		}
	})
}

func FuzzDecodeTags(f *testing.F) {
	r := &blob.TagRecord{Ref: blob.Ref{Repository: "a"}, Tag: "b", Digest: testDigest, Time: time.Unix(1, 0), Signer: "s", Signature: []byte("x")}
	f.Add(encodeTags([]*blob.TagRecord{r, r}))
	f.Add([]byte{255})
	f.Fuzz(func(t *testing.T, raw []byte) {
		records, err := decodeTags(raw)
		if err != nil {
			return
		}
		if len(records) > maxRecords {
			t.Fatalf("%d records", len(records))
		}
		if again, err := decodeTags(encodeTags(records)); err != nil || len(again) != len(records) {
			t.Fatalf("%d records became %d, %v", len(records), len(again), err)
		}
	})
}

func FuzzDecodeTagsRequest(f *testing.F) {
	f.Add(tagsRequest{ref: blob.Ref{Registry: "r", Repository: "p"}, tag: "t"}.encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		q, err := decodeTagsRequest(raw)
		if err == nil && !bytes.Equal(q.encode(), raw) {
			t.Fatalf("%x became %x", raw, q.encode())
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02hi"))
	f.Add([]byte("\xff\xff\xff\xffhi"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if got, err := readFrame(bytes.NewReader(raw), 1024); err == nil && len(got) > 1024 {
			t.Fatalf("took %d bytes", len(got))
		}
	})
}

func TestTagsAnswerIsBounded(t *testing.T) {
	r := &blob.TagRecord{Ref: blob.Ref{Repository: "a"}, Tag: "b", Digest: testDigest, Time: time.Unix(1, 0), Signature: bytes.Repeat([]byte("x"), 1000)}
	many := make([]*blob.TagRecord, 3*maxRecords)
	for i := range many {
		many[i] = r
	}
	raw := encodeTags(many)
	back, err := decodeTags(raw)
	if err != nil || len(back) != maxRecords || len(raw) > maxTags {
		t.Errorf("%d records in %d bytes, %v", len(back), len(raw), err)
	}
}

func TestPieceAddr(t *testing.T) {
	for _, c := range []struct{ advertised, seen, want string }{
		{"0.0.0.0:4001", "10.1.2.3", "10.1.2.3:4001"},
		{":4001", "10.1.2.3", "10.1.2.3:4001"},
		{"[::]:4001", "fd00::7", "[fd00::7]:4001"},
		{"10.9.9.9:4001", "10.1.2.3", "10.9.9.9:4001"},
		{"127.0.0.1:4001", "127.0.0.1", "127.0.0.1:4001"},
		{"0.0.0.0:4001", "::ffff:10.1.2.3", "10.1.2.3:4001"},
		{"127.0.0.1:4001", "10.1.2.3", ""},
		{"169.254.169.254:80", "10.1.2.3", ""},
		{"224.0.0.1:80", "10.1.2.3", ""},
		{"host.example:80", "10.1.2.3", ""},
		{"10.1.2.3:0", "10.1.2.3", ""},
		{"10.1.2.3:70000", "10.1.2.3", ""},
		{"10.1.2.3", "10.1.2.3", ""},
		{"", "10.1.2.3", ""},
	} {
		got, err := pieceAddr(c.advertised, netip.MustParseAddr(c.seen))
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("pieceAddr(%q, %s) = %q, %v; want %q", c.advertised, c.seen, got, err, c.want)
		}
	}
}

func TestScheduleHandsOutWhatIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSchedule(3)
		keys := []cid.Cid{keyCid([32]byte{1}), keyCid([32]byte{2}), keyCid([32]byte{3})}
		now := time.Now()
		for i, key := range keys {
			if !s.add(key, now.Add(time.Duration(3-i)*time.Minute)) {
				t.Fatal("no room")
			}
		}
		if s.add(keyCid([32]byte{4}), now) {
			t.Error("took more than its limit")
		}
		if !s.add(keys[0], now) {
			t.Error("refused a key that is there")
		}
		if a, wait := s.take(now); a != nil || wait != time.Minute {
			t.Errorf("take = %v, %v before anything is due", a, wait)
		}
		a, _ := s.take(now.Add(time.Minute))
		if a == nil || a.key != keys[2] {
			t.Fatalf("take = %v, want the earliest", a)
		}
		s.remove(keys[1])
		s.done(a, now.Add(time.Hour))
		if b, _ := s.take(now.Add(30 * time.Minute)); b == nil || b.key != keys[0] {
			t.Errorf("take = %v, want the one that was not removed", b)
		}
		s.remove(keys[2])
		s.done(a, now)
		if b, wait := s.take(now.Add(2 * time.Hour)); b != nil || wait != time.Hour {
			t.Errorf("take = %v, %v: what was removed came back", b, wait)
		}
	})
}

func TestPause(t *testing.T) {
	for _, c := range []struct {
		o        outcome
		failures int
		low, up  time.Duration
	}{
		{announced, 0, 28 * time.Minute, 44 * time.Minute},
		{enough, 0, 12 * time.Minute, 18 * time.Minute},
		{failed, 1, time.Second, 3 * time.Second},
		{failed, 60, 50 * time.Second, 80 * time.Second},
	} {
		for _, chance := range []float64{0, 0.5, 0.999} {
			if got := pause(c.o, c.failures, time.Hour, chance); got < c.low || got > c.up {
				t.Errorf("pause(%v, %d) = %v, want %v to %v", c.o, c.failures, got, c.low, c.up)
			}
		}
	}
}

func TestRecordStoreIsBoundedForEachPeer(t *testing.T) {
	s := newRecordStore()
	for i := range maxRecordsPerPeer {
		if err := s.Put(t.Context(), ds.NewKey(fmt.Sprintf("/providers/K%d/GREEDY", i)), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Put(t.Context(), ds.NewKey("/providers/more/GREEDY"), []byte("x")); err == nil {
		t.Error("one peer may store without end")
	}
	if err := s.Put(t.Context(), ds.NewKey("/providers/K1/MODEST"), []byte("y")); err != nil {
		t.Error(err)
	}
	query := func(prefix string) int {
		r, err := s.Query(t.Context(), dsq.Query{Prefix: prefix})
		if err != nil {
			t.Fatal(err)
		}
		entries, err := r.Rest()
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	if got := query("/providers/K1"); got != 2 {
		t.Errorf("%d records of one key, want 2", got)
	}
	if got := query("/providers/"); got != maxRecordsPerPeer+1 {
		t.Errorf("%d records in all", got)
	}
	if err := s.Delete(t.Context(), ds.NewKey("/providers/K1/GREEDY")); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), ds.NewKey("/providers/more/GREEDY"), []byte("x")); err != nil {
		t.Errorf("no room after a delete: %v", err)
	}
}
