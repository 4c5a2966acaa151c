package inventory

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/meta"
)

// Listing a fleet is what each look after its placements, costs and machines
// begins with.
func BenchmarkServers(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprint("servers=", n), func(b *testing.B) {
			store := meta.NewMemory()
			facts := &shoalv1.Facts{Hostname: "node", Arch: "amd64", Kernel: "6.1.0", CpuMilli: 32_000, MemoryBytes: 128 << 30, Engine: "containerd"}
			for i := range 30 {
				facts.Images = append(facts.Images, fmt.Sprintf("sha256:%064x", i))
			}
			raw, err := proto.Marshal(facts)
			if err != nil {
				b.Fatal(err)
			}
			now := time.Now()
			for i := range n {
				s := Server{ID: fmt.Sprintf("%016x", i), Name: fmt.Sprintf("node%05d.dc1.example.net", i), Pool: "web", Phase: Ready, PeerID: fmt.Sprint("peer-", i), Created: now, PhaseSince: now, LastSeen: now}
				for range 10 {
					s.note(now, "ready: the host arrived")
				}
				op, err := meta.PutRecord(serverPrefix+s.ID, s)
				if err == nil {
					_, err = store.Commit(b.Context(), nil, []meta.Op{op, meta.Put(factsPrefix+s.ID, raw)})
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			book := &Inventory{cfg: Config{Meta: store, Now: time.Now, Log: slog.New(slog.DiscardHandler)}}
			for b.Loop() {
				if list, err := book.Servers(b.Context(), ""); err != nil || len(list) != n {
					b.Fatal(len(list), err)
				}
			}
		})
	}
}
