package placement

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
)

// The largest placement there may be fits one commit, in the middle of an
// update and after a night in which many hosts failed.
func TestTheLargestPlacementFitsACommit(t *testing.T) {
	now := time.Now()
	host := func(i int) (server, name string) {
		return fmt.Sprintf("%016x", i*7919), fmt.Sprintf("node%05d.rack%02d.dc1.frankfurt.example.net", i, i/40)
	}
	name := strings.Repeat("n", 40)
	record := anOrder(name, MaxReplicas, func(o *Order) {
		o.Spares = MaxReplicas
		o.Service.Image = blob.Image{Ref: blob.Ref{Registry: "registry.example.net", Repository: "team/project/service"}, Tag: "v1.2.3"}
		for i := range 16 {
			o.Service.Env = append(o.Service.Env, fmt.Sprintf("NAME%02d=%s", i, strings.Repeat(fmt.Sprint(i*7919%10), MaxServiceBytes/16-10)))
		}
	}).record(now)
	for i := range MaxRevisions {
		r := record.Revisions[0]
		r.Number = int64(i + 2)
		record.Revisions = append(record.Revisions, r)
	}
	c := &Change{ID: "CHANGE", Kind: kindUpdate, Step: stepRevert, Revision: 11, Before: 10, Began: now, Until: now, Since: now, Avoid: map[string]string{}, Reason: strings.Repeat("r", maxBrief)}
	record.Change = c
	for i := range MaxReplicas {
		server, label := host(i)
		old := newID(name)
		record.Containers = append(record.Containers, Placed{ID: old, Server: server, Host: label, Revision: 10, Ordered: now, Restarts: 12})
		c.Moves = append(c.Moves, Move{ID: newID(name), Server: server, Host: label, Old: old, State: moveReturning, Back: newID(name), Since: now})
		server, label = host(i + MaxReplicas)
		c.Spares = append(c.Spares, server)
		record.Prepulls = append(record.Prepulls, Prepull{Server: server, Host: label, State: PrepullReady, Done: 1 << 33, Total: 1 << 33, Asked: now, Ready: now})
		server, label = host(i + 2*MaxReplicas)
		why := fmt.Sprintf("dial tcp 10.%d.%d.%d:443: ", i%7, i%250, i%251) + strings.Repeat("the disk is full; ", 20)
		c.Avoid[server] = brief(fmt.Errorf("%s", why))
		record.Prepulls = append(record.Prepulls, Prepull{Server: server, Host: label, State: PrepullReplaced, Error: c.Avoid[server], Asked: now})
		server, label = host(i + 3*MaxReplicas)
		c.Rest = append(c.Rest, server)
		record.Verdicts = append(record.Verdicts, Verdict{Server: server, Name: label, Outcome: OutcomeRank, Reason: "lacks 8589934592 bytes of the image; 32000m of CPU and 131072 MiB are free", Missing: 1 << 33})
	}
	record.Verdicts, c.Rest = kept(record.Verdicts), c.Rest[:keptVerdicts]
	r := New(Config{Meta: meta.NewMemory()})
	if _, err := r.save(t.Context(), versioned[Record]{value: record}); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Get(t.Context(), name); err != nil || len(got.Change.Moves) != MaxReplicas {
		t.Errorf("%d moves, %v", len(got.Change.Moves), err)
	}
}

// So do as many full hosts as one commit takes.
func TestFullHostsFitACommit(t *testing.T) {
	r := New(Config{Meta: meta.NewMemory()})
	b := newBatch()
	for i := range hostsAtOnce {
		h := HostRecord{Server: fmt.Sprintf("%016x", i*7919), Pool: "web", Generation: 1 << 40}
		for range MaxClaims {
			n := Need{CPU: 32_000, Memory: 1 << 40}
			for port := range int32(32) {
				n.Ports = append(n.Ports, 30_000+port)
			}
			name := strings.Repeat("n", 40)
			h.Claims = append(h.Claims, Claim{ID: newID(name), Placement: name, Project: name, Revision: 1 << 20, Need: n, Open: true, Run: true, Replaces: newID(name), Told: true, Gone: 1 << 40})
		}
		if err := b.add(h, 0, true); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.cfg.Meta.Commit(t.Context(), b.compares, b.ops); err != nil {
		t.Fatal(err)
	}
	if all, err := r.hostRecords(t.Context()); err != nil || len(all) != hostsAtOnce {
		t.Errorf("%d records, %v", len(all), err)
	}
}

func TestWhatIsNotARecordIsRefused(t *testing.T) {
	long := []byte(strings.Repeat(" ", maxUnpacked+1))
	if _, err := packed(long); err == nil {
		t.Error("it was packed")
	}
	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	_, err := w.Write(long)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	for what, data := range map[string][]byte{"one that is too long": bomb.Bytes(), "one that is cut off": bomb.Bytes()[:100], "none": []byte("\x1f\x8b")} {
		if out, err := unpacked(data); err == nil {
			t.Errorf("%s: %d bytes", what, len(out))
		}
	}
}
