package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shoalproject/shoal/e2e/cluster"
	"github.com/shoalproject/shoal/e2e/image"
	"github.com/shoalproject/shoal/e2e/netns"
)

// TestSupernodeDies: killed in the middle of a pull of eight hosts that
// between them hold every piece, it is not missed.
func TestSupernodeDies(t *testing.T) {
	h := build(t, plan{hosts: 8, mbit: 40})
	img := h.push("demo/app", "v1", image.Spec{Layers: []int64{32 << 20}, Seed: 21, NoProgram: true})
	size := sizeOf(t, img)
	before := h.traffic()["seed"].Sent
	var (
		wait sync.WaitGroup
		err  error
	)
	wait.Go(func() { _, err = h.pullAll(h.agents, order{repository: "demo/app", reference: "v1"}) })
	h.eventually(time.Minute, "the seed sends every piece once", func() bool {
		m, err := h.supernode.Host.Metrics(h.ctx, h.supernode.Metrics)
		return err == nil && m.Sum("shoal_swarm_sent_bytes_total") >= float64(size)
	})
	// What it has sent may still stand in its own queue.
	last := before
	h.eventually(time.Minute, "the seed's queue drains", func() bool {
		now := h.traffic()["seed"].Sent
		drained := now-last < 10_000 // of 100,000 that the link takes in this time
		last = now
		return drained
	})
	for _, a := range h.agents {
		if m, err := a.Counters(h.ctx); err == nil && m.Sum("shoal_fetch_bytes_total") >= float64(size) {
			t.Logf("%s was done before the supernode died: the test is weaker for it", a.Host.Name)
		}
	}
	h.supernode.Kill()
	wait.Wait()
	if err != nil {
		t.Fatal(err)
	}
}

// TestNoSupernode: with every supernode gone, neighbours are found through
// the DHT, and a signed tag record answers for the tag.
func TestNoSupernode(t *testing.T) {
	h := build(t, plan{hosts: 4})
	img := h.push("demo/app", "v1", image.Spec{Layers: []int64{8 << 20}, Seed: 22, NoProgram: true})
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.pull(h.ctx, h.agents[0], order{repository: "demo/app", reference: "v1"}); err != nil {
		t.Fatal(err)
	}
	// An agent lets those in whom it knows: the reader has read from this
	// repository on each host before.
	h.push("demo/app", "v0", image.Spec{Layers: []int64{1 << 20}, Seed: 28, NoProgram: true})
	if _, err := h.pullAll(h.agents, order{repository: "demo/app", reference: "v0"}); err != nil {
		t.Fatal(err)
	}
	h.supernode.Kill()
	for i, reference := range map[int]string{2: "v1", 3: digest.String()} {
		began := time.Now()
		r, err := h.pull(h.ctx, h.agents[i], order{repository: "demo/app", reference: reference})
		if err != nil {
			t.Errorf("by %s: %v", reference, err)
			continue
		}
		if r.Digest != digest.String() {
			t.Errorf("by %s: got %s, want %s", reference, r.Digest, digest)
		}
		if r.Age == "" && reference == "v1" {
			t.Error("the tag was answered from a record, and its age is not said")
		}
		first := r.FirstByte.Sub(began)
		t.Logf("by %s: first byte after %.2f s, age %q", reference, first.Seconds(), r.Age)
		if first > 5*time.Second {
			t.Errorf("by %s: the first byte came after %s", reference, first)
		}
		if peers, _, _ := h.bytesBySource(h.agents[i]); peers == 0 {
			t.Errorf("by %s: no byte came from a neighbour", reference)
		}
	}
}

// TestAgentResumes: an agent that is killed in the middle goes on where it
// was when it is back.
func TestAgentResumes(t *testing.T) {
	h := build(t, plan{hosts: 2, mbit: 40})
	img := h.push("demo/app", "v1", image.Spec{Layers: []int64{32 << 20}, Seed: 23, NoProgram: true})
	size := sizeOf(t, img)
	a, app := h.agents[0], order{repository: "demo/app", reference: "v1"}
	done := make(chan error, 1)
	go func() { _, err := h.pull(h.ctx, a, app); done <- err }()
	start := h.traffic()["host1"].Received
	h.eventually(time.Minute, "half of the image arrives", func() bool {
		return h.traffic()["host1"].Received-start > size*6/10
	})
	a.Kill()
	if err := <-done; err == nil {
		t.Fatal("the pull was over before the agent was killed")
	}
	if err := a.Restart(h.ctx); err != nil {
		t.Fatal(err)
	}
	before := h.traffic()["host1"].Received
	if _, err := h.pull(h.ctx, a, app); err != nil {
		t.Fatal(err)
	}
	moved := h.traffic()["host1"].Received - before
	t.Logf("after the restart %.0f %% of the image moved", 100*float64(moved)/float64(size))
	if moved > size*6/10 {
		t.Errorf("%d of %d bytes moved after the restart: it started over", moved, size)
	}
}

// TestFlippedBits: a neighbour whose bytes are wrong is named and banned, and
// no client sees one of them.
func TestFlippedBits(t *testing.T) {
	h := build(t, plan{hosts: 4})
	h.push("demo/app", "v1", image.Spec{Layers: []int64{16 << 20}, Seed: 24, NoProgram: true})
	app := order{repository: "demo/app", reference: "v1"}
	liar := h.agents[0]
	if _, err := h.pull(h.ctx, liar, app); err != nil {
		t.Fatal(err)
	}
	flipBits(t, filepath.Join(liar.Data))
	// The seed is slow, so that the liar is asked.
	if err := h.supernode.Host.Shape(h.ctx, slow); err != nil {
		t.Fatal(err)
	}
	if _, err := h.pullAll(h.agents[1:], app); err != nil {
		t.Fatal(err) // every byte was verified by the client
	}
	var bans, mismatches float64
	for _, a := range h.agents[1:] {
		m, err := a.Counters(h.ctx)
		if err != nil {
			t.Fatal(err)
		}
		bans += m.Sum("shoal_swarm_bans_total")
		mismatches += m.Sum("shoal_swarm_mismatches_total")
	}
	t.Logf("%.0f wrong pieces, %.0f bans", mismatches, bans)
	if bans == 0 || mismatches == 0 {
		t.Error("the liar was not banned")
	}
	id := peerID(t, h, liar)
	if !strings.Contains(h.supernode.Log(), id) {
		t.Errorf("the supernode's log does not name %s", id)
	}
}

// flipBits breaks every large blob of a store, as a failing disk would.
func flipBits(t *testing.T, data string) {
	t.Helper()
	broken := 0
	err := filepath.WalkDir(data, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, "sha256") {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() < 1<<20 {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		buf := make([]byte, 1)
		for off := int64(1000); off < info.Size(); off += 64 << 10 {
			if _, err := f.ReadAt(buf, off); err != nil {
				return errors.Join(err, f.Close())
			}
			buf[0] ^= 0x40
			if _, err := f.WriteAt(buf, off); err != nil {
				return errors.Join(err, f.Close())
			}
		}
		broken++
		return f.Close()
	})
	if err != nil || broken == 0 {
		t.Fatalf("broke %d blobs below %s: %v", broken, data, err)
	}
}

// TestSilentPeer: a neighbour that accepts and sends nothing is gone round.
func TestSilentPeer(t *testing.T) {
	h := build(t, plan{hosts: 5, mbit: 80})
	h.push("demo/app", "v1", image.Spec{Layers: []int64{32 << 20}, Seed: 25, NoProgram: true})
	app := order{repository: "demo/app", reference: "v1"}
	silent, rest := h.agents[0], h.agents[1:]
	if _, err := h.pull(h.ctx, silent, app); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(h.ctx, 10*time.Second) // twice what it takes on a busy machine
	defer cancel()
	var (
		wait sync.WaitGroup
		errs = make([]error, len(rest))
	)
	began := time.Now()
	for i, a := range rest {
		wait.Go(func() { _, errs[i] = h.pull(ctx, a, app) })
	}
	h.eventually(time.Minute, "the others take from the first", func() bool {
		m, err := silent.Counters(h.ctx)
		return err == nil && m.Sum("shoal_swarm_sent_bytes_total") > 1<<20
	})
	if err := silent.Freeze(); err != nil {
		t.Fatal(err)
	}
	frozen := time.Since(began)
	wait.Wait()
	took := time.Since(began)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	t.Logf("frozen after %.1f s", frozen.Seconds())
	var hedges float64
	for _, a := range rest {
		hedges += hedgesOf(t, h, a)
	}
	t.Logf("%.0f hedges; all had it %.1f s after the start", hedges, took.Seconds())
	if hedges == 0 {
		t.Error("nobody hedged, and yet a neighbour had gone silent")
	}
	if err := silent.Thaw(); err != nil {
		t.Error(err)
	}
}

func hedgesOf(t *testing.T, h *house, a *cluster.Agent) float64 {
	t.Helper()
	m, err := a.Counters(h.ctx)
	if err != nil {
		t.Fatal(err)
	}
	return m.Sum("shoal_swarm_hedges_total")
}

// TestDiskFull: a host whose disk is too small for the layer still pulls it,
// streamed through, and says so.
func TestDiskFull(t *testing.T) {
	h := build(t, plan{hosts: 1})
	h.push("demo/app", "v1", image.Spec{Layers: []int64{24 << 20}, Seed: 26, NoProgram: true})
	small := h.host("small", netns.Link{})
	data := filepath.Join(small.Dir, "agent")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", data, "tmpfs", 0, "size=12m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(data, syscall.MNT_DETACH) })
	token, err := h.supernode.JoinToken(h.ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	a, err := h.supernode.StartAgent(h.ctx, small, token)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := h.pull(h.ctx, a, order{repository: "demo/app", reference: "v1"}); err != nil {
			t.Fatal(err)
		}
	}
	m, err := a.Counters(h.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if m.Sum("shoal_fetch_uncached_total") == 0 {
		t.Error("24 MiB were read on a disk of 12, and the counter of uncached reads stands at 0")
	}
}

// TestBlockedPorts: where the piece port of half of the hosts is closed to
// neighbours, all pulls still succeed.
func TestBlockedPorts(t *testing.T) {
	h := build(t, plan{hosts: 4, commands: []string{"iptables"}})
	h.push("demo/app", "v1", image.Spec{Layers: []int64{16 << 20}, Seed: 27, NoProgram: true})
	for _, a := range h.agents[:2] {
		if _, err := a.Host.Run(h.ctx, "iptables", "-A", "INPUT", "-p", "tcp", "--dport", "65002", "-j", "DROP"); err != nil {
			t.Skip("NOT RUN: no packet filter here:", err)
		}
	}
	began := time.Now()
	if _, err := h.pullAll(h.agents, order{repository: "demo/app", reference: "v1"}); err != nil {
		t.Fatal(err)
	}
	t.Logf("all four had it after %.1f s", time.Since(began).Seconds())
}
