package fetch

import (
	"cmp"
	"crypto/rand"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"

	"github.com/prometheus/client_golang/prometheus"
)

// Kinds of sources, as reports and metrics name them.
const (
	FromStore      = "store"
	FromContainerd = "containerd"
	FromPeer       = "peer"
	FromSupernode  = "supernode"
	FromUpstream   = "upstream"
)

const (
	// pullsKept is how many pulls the ledger remembers.
	pullsKept = 256
	// blobsKept bounds the blobs of one pull that the ledger remembers.
	blobsKept = 1024
	// pullOpen is for how long a pull takes further manifests of the same
	// image, as an index is followed by a manifest.
	pullOpen = time.Minute
)

// BytesFrom says how many bytes came from a source.
type BytesFrom struct {
	Kind  string // one of the From constants
	Name  string // peer ID or registry name, where there is one
	Bytes int64
}

// BlobReport says where one blob of a pull came from.
type BlobReport struct {
	Digest    blob.Digest
	Size      int64 // -1 when it was never known
	Started   time.Time
	Ended     time.Time // zero while it goes on
	Sources   []BytesFrom
	FirstByte time.Duration // until a reader got its first byte; 0 when none did
	Hedges    int
	WhyWaited string
	Err       string
}

// PullReport says where the bytes of a pull came from.
type PullReport struct {
	ID      string
	Image   string
	Started time.Time
	Ended   time.Time // zero while it goes on
	Blobs   []BlobReport
}

// source is the key under which bytes are counted.
type source struct{ kind, name string }

// record is the ledger of one blob.
type record struct {
	metrics *metrics
	started time.Time
	digest  blob.Digest

	mu     sync.Mutex // guards what follows
	size   int64
	ended  time.Time
	first  time.Duration
	bytes  map[source]int64
	hedges int
	why    string
	err    string
}

func (r *record) add(kind, name string, n int64) {
	if n <= 0 {
		return
	}
	r.mu.Lock()
	r.bytes[source{kind, name}] += n
	r.mu.Unlock()
	r.metrics.add(kind, n)
}

// read notes that a reader got bytes.
func (r *record) read() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.first == 0 {
		r.first = max(time.Since(r.started), time.Nanosecond)
	}
}

func (r *record) hedge() {
	r.mu.Lock()
	r.hedges++
	r.mu.Unlock()
	r.metrics.hedge()
}

func (r *record) waits(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.why = why
}

func (r *record) sized(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.size = n
}

// resume opens a record that had ended: the blob is fetched or read again.
func (r *record) resume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = time.Time{}
}

// finish ends the record.
func (r *record) finish(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = time.Now()
	r.err = ""
	if err != nil {
		r.err = err.Error()
	}
}

func (r *record) report() BlobReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	return BlobReport{
		Digest: r.digest, Size: r.size, Started: r.started, Ended: r.ended,
		Sources: r.sources(), FirstByte: r.first, Hedges: r.hedges, WhyWaited: r.why, Err: r.err,
	}
}

// sources is called with mu held.
func (r *record) sources() []BytesFrom {
	out := make([]BytesFrom, 0, len(r.bytes))
	for s, n := range r.bytes {
		out = append(out, BytesFrom{Kind: s.kind, Name: s.name, Bytes: n})
	}
	slices.SortFunc(out, func(a, b BytesFrom) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// pull is one pull of an image, as far as it is known.
type pull struct {
	id, image string
	started   time.Time
	touched   time.Time
	order     []blob.Digest // what it names, at most blobsKept
	sizes     map[blob.Digest]int64
	records   map[blob.Digest]*record
}

// ledger remembers the last pulls.
type ledger struct {
	metrics *metrics

	mu    sync.Mutex // guards pulls and what they hold
	pulls []*pull    // oldest first
}

// begin opens a pull, or adds to the one that is open for the same image.
func (l *ledger) begin(image string, blobs []blob.Descriptor) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var p *pull
	if n := len(l.pulls); n > 0 {
		last := l.pulls[n-1]
		if last.image == image && time.Since(last.touched) < pullOpen && extends(last, blobs) {
			p = last
		}
	}
	if p == nil {
		p = l.open(image)
	}
	p.touched = time.Now()
	for _, d := range blobs {
		p.name(d.Digest, d.Size)
	}
	return p.id
}

// extends reports whether the blobs carry a pull on rather than begin it anew:
// none of those that it names has been looked at.
func extends(p *pull, blobs []blob.Descriptor) bool {
	for _, d := range blobs {
		if p.records[d.Digest] != nil {
			return false
		}
	}
	return true
}

// open is called with mu held.
func (l *ledger) open(image string) *pull {
	p := &pull{
		id: rand.Text()[:12], image: image, started: time.Now(), touched: time.Now(),
		sizes: map[blob.Digest]int64{}, records: map[blob.Digest]*record{},
	}
	l.pulls = append(l.pulls, p)
	if len(l.pulls) > pullsKept {
		l.pulls = slices.Delete(l.pulls, 0, len(l.pulls)-pullsKept)
	}
	return p
}

func (p *pull) name(d blob.Digest, size int64) {
	if _, known := p.sizes[d]; known || len(p.order) >= blobsKept {
		return
	}
	p.order = append(p.order, d)
	p.sizes[d] = size
}

// record finds or makes the record under which bytes of d are counted: that
// of the pull with this id, or else of the latest pull that names d, or else
// of a pull of its own.
func (l *ledger) record(id string, d blob.Digest, size int64) *record {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.find(id, d)
	if p == nil {
		p = l.open("")
	}
	p.name(d, size)
	p.touched = time.Now()
	r := p.records[d]
	if r == nil {
		r = &record{metrics: l.metrics, digest: d, size: size, started: time.Now(), bytes: map[source]int64{}}
		p.records[d] = r
	}
	r.resume()
	return r
}

// share puts a record that is being written for one pull into another as
// well.
func (l *ledger) share(id string, r *record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.find(id, r.digest); p != nil && p.records[r.digest] == nil {
		p.name(r.digest, -1)
		p.records[r.digest] = r
	}
}

// find is called with mu held.
func (l *ledger) find(id string, d blob.Digest) *pull {
	for i := len(l.pulls) - 1; i >= 0; i-- {
		p := l.pulls[i]
		if _, names := p.sizes[d]; p.id == id || (id == "" && names) {
			return p
		}
	}
	return nil
}

// size is what the manifests of recent pulls say about d.
func (l *ledger) size(d blob.Digest) (int64, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.find("", d); p != nil && p.sizes[d] >= 0 {
		return p.sizes[d], true
	}
	return 0, false
}

// forgetSize takes back what manifests said of a blob's size: it was wrong.
func (l *ledger) forgetSize(d blob.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.pulls {
		if _, names := p.sizes[d]; names {
			p.sizes[d] = -1
		}
	}
}

// report finds a pull by its id, its image or a digest in it; "" is the last.
func (l *ledger) report(key string) (PullReport, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.pulls) - 1; i >= 0; i-- {
		p := l.pulls[i]
		_, names := p.sizes[blob.Digest(key)]
		if key == "" || p.id == key || p.image == key || names {
			return p.report(), true
		}
	}
	return PullReport{}, false
}

// report is called with the ledger's mu held.
func (p *pull) report() PullReport {
	out := PullReport{ID: p.id, Image: p.image, Started: p.started}
	going := false
	for _, d := range p.order {
		r := p.records[d]
		if r == nil {
			continue
		}
		b := r.report()
		if b.Size < 0 {
			b.Size = p.sizes[d]
		}
		going = going || b.Ended.IsZero()
		if b.Ended.After(out.Ended) {
			out.Ended = b.Ended
		}
		out.Blobs = append(out.Blobs, b)
	}
	if going {
		out.Ended = time.Time{}
	}
	return out
}

// Totals are bytes of blobs by the kind of source, since the process started.
// What a reader got straight from a file is local.
type Totals struct {
	Peer, Supernode, Upstream, Local int64
}

// Totals counts all flights and reads so far.
func (f *Fetcher) Totals() Totals {
	m := f.metrics
	return Totals{Peer: m.peer.Load(), Supernode: m.supernode.Load(), Upstream: m.upstream.Load(), Local: m.local.Load()}
}

// metrics are what is counted over all pulls.
type metrics struct {
	peer, supernode, upstream, local atomic.Int64 // what Totals says

	bytes      *prometheus.CounterVec
	hedges     prometheus.Counter
	mismatches prometheus.Counter
	uncached   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shoal_fetch_bytes_total", Help: "Bytes of blobs, by the kind of source they came from.",
		}, []string{"source"}),
		hedges: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "shoal_fetch_hedges_total", Help: "Pieces that were asked for a second time because the first was slow.",
		}),
		mismatches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "shoal_fetch_digest_mismatch_total", Help: "Blobs whose bytes did not have the digest that was asked for.",
		}),
		uncached: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "shoal_fetch_uncached_total", Help: "Reads that went past the store because the disk was full.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.bytes, m.hedges, m.mismatches, m.uncached)
	}
	return m
}

func (m *metrics) add(kind string, n int64) {
	m.bytes.WithLabelValues(kind).Add(float64(n))
	total := &m.local
	switch kind {
	case FromPeer:
		total = &m.peer
	case FromSupernode:
		total = &m.supernode
	case FromUpstream:
		total = &m.upstream
	}
	total.Add(n)
}

func (m *metrics) hedge() { m.hedges.Inc() }
