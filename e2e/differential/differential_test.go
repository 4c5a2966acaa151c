package differential

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The plays of a run are those of the seeds from the first on. SHOAL_SEED
// plays that one seed again; SHOAL_SOAK=30m plays new ones for so long.
const (
	firstSeed = 1
	plays     = 1500
	// playsOnDisk go to a registry on files too, where each commit is synced.
	playsOnDisk = 40
	// playsOfAPair bounds what the two keep in memory.
	playsOfAPair = 2000
)

// TestDifferential plays the same requests in each run, so that whoever
// changes the registry sees what that changed, and nobody else does.
func TestDifferential(t *testing.T) {
	if one := os.Getenv("SHOAL_SEED"); one != "" {
		seed, err := strconv.ParseUint(one, 10, 64)
		if err != nil {
			t.Fatalf("SHOAL_SEED: %v", err)
		}
		newPair(t, false).test(t, seed, map[string]int{})
		return
	}
	seen := map[string]int{}
	p := newPair(t, false)
	for seed := range uint64(plays) {
		p.test(t, firstSeed+seed, seen)
	}
	onDisk := newPair(t, true)
	for seed := range uint64(playsOnDisk) {
		onDisk.test(t, firstSeed+plays+seed, seen)
	}
	for _, entry := range table {
		if seen[entry.name] == 0 {
			t.Errorf("the intended difference %q is never seen: it is stale, or nothing asks for it", entry.name)
		}
	}
	t.Logf("seeds %d to %d; intended differences seen: %v", firstSeed, firstSeed+plays+playsOnDisk-1, seen)
}

// TestSoakDifferential plays what nobody has played before, and more of it at
// each run.
func TestSoakDifferential(t *testing.T) {
	raw := os.Getenv("SHOAL_SOAK")
	if raw == "" {
		t.Skip("a long run: make soak")
	}
	length, err := time.ParseDuration(raw)
	if err != nil {
		t.Fatalf("SHOAL_SOAK: %v", err)
	}
	first := rand.Uint64() >> 1
	seed := first
	for end := time.Now().Add(length); time.Now().Before(end); {
		t.Run(fmt.Sprint("from seed ", seed), func(t *testing.T) {
			p := newPair(t, false)
			for range playsOfAPair {
				if time.Now().After(end) {
					return
				}
				p.test(t, seed, map[string]int{})
				seed++
			}
		})
	}
	t.Logf("%d plays, seeds %d to %d", seed-first, first, seed-1)
}

// TestCanFail has a registry that says it deleted a blob and did not: that is
// found, and told in the few requests that it takes.
func TestCanFail(t *testing.T) {
	honest := ours(t, false)
	liar := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "/blobs/sha256:") {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		honest.ServeHTTP(w, r)
	})
	p := &pair{ours: serve(t, "a liar", liar), theirs: theirs(t)}
	for seed := range uint64(plays) {
		requests := write(firstSeed + seed)
		found, err := p.play(t.Context(), requests, map[string]int{})
		if err != nil {
			t.Fatal(err)
		}
		// That it "deletes" what is not there is found at once; what it keeps
		// takes some requests to see.
		if found == nil || found.request.kind == deleteBlob {
			continue
		}
		short, err := p.shrink(t.Context(), requests, found)
		if err != nil {
			t.Fatal(err)
		}
		if last := short[len(short)-1]; len(short) > 8 || last.String() != found.request.String() {
			t.Errorf("%d requests, the last is %s; want a few that end in %s", len(short), last, found.request)
		}
		return
	}
	t.Error("nothing was found")
}

// test plays one seed and reports what was found, in as few requests as it
// takes.
func (p *pair) test(t *testing.T, seed uint64, seen map[string]int) {
	t.Helper()
	requests := write(seed)
	found, err := p.play(t.Context(), requests, seen)
	if err != nil {
		t.Fatalf("SHOAL_SEED=%d: %v", seed, err)
	}
	if found == nil {
		return
	}
	short, err := p.shrink(t.Context(), requests, found)
	if err != nil {
		t.Fatalf("SHOAL_SEED=%d: %v", seed, err)
	}
	var text strings.Builder
	for i, r := range short {
		fmt.Fprintf(&text, "\n  %d. %s", i+1, r)
	}
	t.Errorf("SHOAL_SEED=%d: the answers to the last of these differ, and no entry of the table says that they may:%s\n  %v", seed, text.String(), found.unknown)
}
