package fetch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	// maxManifest is the largest manifest in bytes that is taken.
	maxManifest = 4 << 20
	// askGateway is for how long the supernode may take over a manifest
	// before somebody else is asked.
	askGateway = 10 * time.Second
	// nearManifest is for how long neighbours are asked for a manifest that a
	// registry outside has as well.
	nearManifest = 1500 * time.Millisecond
	// gatewayRest is for how long the supernode is not asked after it could
	// not be reached.
	gatewayRest = 5 * time.Second
	// nearWait is for how long neighbours are asked for tag records.
	nearWait = 3 * time.Second
)

// Cred is what a reader brings along for a manifest.
type Cred struct {
	// Token is the reader's own pull token for the reference, "" without one.
	Token string
	// Accept lists the media types that the reader takes; empty takes all.
	Accept []string
}

// Manifest is a manifest and where it came from.
type Manifest struct {
	Descriptor blob.Descriptor
	Body       []byte
	// Age is how long ago a tag was known to name this; 0 for a digest, and
	// for a tag that was just asked for.
	Age    time.Duration
	Source string // one of the From constants
}

// Manifest finds a manifest by tag or digest. The caller has authorised the
// reader. By digest: the store, the supernode, neighbours, upstream. By tag:
// the supernode, then upstream, then the newest signed record within the
// offline grace.
func (f *Fetcher) Manifest(ctx context.Context, ref blob.Ref, reference string, cred Cred) (Manifest, error) {
	if strings.Contains(reference, ":") {
		d, err := blob.ParseDigest(reference)
		if err != nil {
			return Manifest{}, fmt.Errorf("manifest of %s: %w", ref, err)
		}
		return f.manifestByDigest(ctx, ref, blob.Descriptor{Digest: d, Size: -1}, cred)
	}
	return f.manifestByTag(ctx, ref, reference, cred)
}

func (f *Fetcher) manifestByDigest(ctx context.Context, ref blob.Ref, want blob.Descriptor, cred Cred) (Manifest, error) {
	if file, kind, size, ok := f.whole(want.Digest); ok {
		defer file.Close()
		if m, err := readManifest(file, size, want, kind); err == nil {
			return m, nil
		}
	}
	reference := want.Digest.String()
	m, err := f.fromGateway(ctx, ref, reference, cred)
	if err == nil || final(err) {
		return m, err
	}
	req := Request{Digest: want.Digest, Size: want.Size, Ref: ref, OriginToken: cred.Token, manifest: true}
	m, flightErr := f.manifestByFlight(ctx, req, want)
	if flightErr == nil || ref.Registry == "" || f.cfg.Upstream == nil {
		return m, errIf(flightErr, ref, reference, err)
	}
	m, upErr := f.fromUpstream(ctx, ref, reference, cred)
	return m, errIf(upErr, ref, reference, err)
}

// errIf words the error of the last one asked; earlier is why the one before
// could not help.
func errIf(err error, ref blob.Ref, reference string, earlier error) error {
	if err == nil {
		return nil
	}
	if earlier != nil && !final(err) {
		err = fmt.Errorf("%w (and before: %w)", err, earlier)
	}
	return fmt.Errorf("manifest %s of %s: %w", reference, ref, err)
}

// final reports whether an answer settles the matter for this reader.
func final(err error) bool {
	return errors.Is(err, ErrDenied) || errors.Is(err, ErrNotFound)
}

// manifestByFlight fetches a manifest as the small blob that it is.
func (f *Fetcher) manifestByFlight(ctx context.Context, req Request, want blob.Descriptor) (Manifest, error) {
	if f.cfg.Swarm == nil {
		return Manifest{}, fmt.Errorf("%w: there are no neighbours to ask", ErrUnavailable)
	}
	if req.Ref.Registry != "" && f.cfg.Upstream != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, nearManifest, fmt.Errorf("%w: no neighbour gave it in time", ErrUnavailable))
		defer cancel()
	}
	r, err := f.Open(ctx, req, blob.Range{End: -1})
	if err != nil {
		return Manifest{}, err
	}
	defer r.Close()
	return readManifest(r, r.Size(), want, FromPeer)
}

func readManifest(r io.Reader, size int64, want blob.Descriptor, kind string) (Manifest, error) {
	if size > maxManifest {
		return Manifest{}, fmt.Errorf("%w: %s has %d bytes, a manifest has at most %d", ErrNotFound, want.Digest, size, maxManifest)
	}
	body, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return Manifest{}, fmt.Errorf("read manifest %s: %w", want.Digest, err)
	}
	return checkManifest(Manifest{Descriptor: want, Body: body, Source: kind}, want.Digest)
}

// checkManifest hashes the body against the digest that was asked for and
// fills in what the descriptor lacks.
func checkManifest(m Manifest, want blob.Digest) (Manifest, error) {
	if len(m.Body) > maxManifest {
		return Manifest{}, fmt.Errorf("%w: a manifest of %d bytes, at most %d are taken", ErrNotFound, len(m.Body), maxManifest)
	}
	if got := want.Algorithm().FromBytes(m.Body); got != want {
		return Manifest{}, fmt.Errorf("%w: manifest %s was asked for, the bytes are %s", ErrBadDigest, want, got)
	}
	m.Descriptor.Digest, m.Descriptor.Size = want, int64(len(m.Body))
	if m.Descriptor.MediaType == "" {
		if m.Descriptor.MediaType = mediaType(m.Body); m.Descriptor.MediaType == "" {
			return Manifest{}, fmt.Errorf("%w: %s is held, but as a blob and no manifest", ErrNotFound, want)
		}
	}
	return m, nil
}

// pausing is a time until which somebody is not asked.
type pausing struct{ until atomic.Int64 }

func (p *pausing) resting(now time.Time) bool { return now.UnixNano() < p.until.Load() }
func (p *pausing) restUntil(t time.Time) {
	if t.IsZero() {
		p.until.Store(0)
		return
	}
	p.until.Store(t.UnixNano())
}

// mediaType reads the type that a manifest gives itself, or tells an index
// from a manifest by what it lists (image-spec 1.1, both forms). It is empty
// for what is neither, such as a layer or an image's configuration.
func mediaType(body []byte) string {
	var head struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Layers        json.RawMessage `json:"layers"`
	}
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&head); err != nil {
		return ""
	}
	switch {
	case head.MediaType != "":
		return head.MediaType
	case head.Manifests != nil:
		return "application/vnd.oci.image.index.v1+json"
	case head.SchemaVersion != 0, head.Layers != nil:
		return "application/vnd.oci.image.manifest.v1+json"
	}
	return ""
}

func (f *Fetcher) manifestByTag(ctx context.Context, ref blob.Ref, tag string, cred Cred) (Manifest, error) {
	m, err := f.fromGateway(ctx, ref, tag, cred)
	if err == nil || final(err) {
		return m, err
	}
	if ref.Registry != "" && f.cfg.Upstream != nil {
		var upErr error
		if m, upErr = f.fromUpstream(ctx, ref, tag, cred); upErr == nil || final(upErr) {
			return m, upErr
		}
		err = errors.Join(err, upErr)
	}
	rec := f.newestRecord(ctx, ref, tag)
	if rec == nil {
		return Manifest{}, fmt.Errorf("resolve %s:%s: no registry answers and no signed record is young enough: %w", ref, tag, err)
	}
	want := blob.Descriptor{Digest: rec.Digest, Size: rec.Size, MediaType: rec.MediaType}
	m, byErr := f.manifestByDigest(ctx, ref, want, cred)
	if byErr != nil {
		return Manifest{}, fmt.Errorf("resolve %s:%s by a signed record: %w", ref, tag, byErr)
	}
	m.Age = max(time.Since(rec.Time), 0)
	return m, nil
}

// fromGateway asks the supernode; without one the error is ErrUnavailable.
func (f *Fetcher) fromGateway(ctx context.Context, ref blob.Ref, reference string, cred Cred) (Manifest, error) {
	if f.cfg.Gateway == nil {
		return Manifest{}, fmt.Errorf("%w: no supernode is configured", ErrUnavailable)
	}
	if f.gatewayDown.resting(time.Now()) {
		return Manifest{}, fmt.Errorf("%w: the supernode could not be reached a moment ago", ErrUnavailable)
	}
	asking, cancel := context.WithTimeout(ctx, askGateway)
	defer cancel()
	got, err := f.cfg.Gateway.Manifest(asking, ref, reference, cred.Token, cred.Accept)
	if err != nil {
		status, _ := f.classify(err)
		_, err = sortError(err, status)
		if status == 0 && !final(err) && ctx.Err() == nil {
			f.gatewayDown.restUntil(time.Now().Add(gatewayRest))
		}
		return Manifest{}, fmt.Errorf("ask the supernode for %s of %s: %w", reference, ref, err)
	}
	f.gatewayDown.restUntil(time.Time{})
	m, err := asked(Manifest{Descriptor: got.Descriptor, Body: got.Body, Age: got.Age, Source: FromSupernode}, reference)
	if err != nil {
		return Manifest{}, err
	}
	if got.Record != nil {
		f.keepRecord(got.Record, ref, reference, m.Descriptor.Digest)
	}
	f.keepManifest(ctx, m)
	return m, nil
}

func (f *Fetcher) fromUpstream(ctx context.Context, ref blob.Ref, reference string, cred Cred) (Manifest, error) {
	desc, body, err := f.cfg.Upstream.Manifest(ctx, ref, reference, cred.Token, cred.Accept)
	if err != nil {
		status, _ := f.classify(err)
		_, err = sortError(err, status)
		return Manifest{}, fmt.Errorf("ask %s for %s: %w", ref, reference, err)
	}
	f.metrics.add(FromUpstream, int64(len(body)))
	m, err := asked(Manifest{Descriptor: desc, Body: body, Source: FromUpstream}, reference)
	if err != nil {
		return Manifest{}, err
	}
	f.keepManifest(ctx, m)
	return m, nil
}

// keepManifest puts a verified manifest into the store, signed, so that
// neighbours find it here when no registry answers. Failing to is no reason
// to fail the reader.
func (f *Fetcher) keepManifest(ctx context.Context, m Manifest) {
	if err := f.keepBytes(ctx, m.Descriptor.Digest, m.Body); err != nil {
		f.log.Debug("a manifest is not kept", "digest", m.Descriptor.Digest, "err", err)
	}
}

func (f *Fetcher) keepBytes(ctx context.Context, d blob.Digest, body []byte) error {
	size := int64(len(body))
	b, err := f.cfg.Store.Create(d, size)
	if err != nil {
		return err
	}
	defer b.Close()
	if b.Complete() {
		return nil
	}
	for i := range b.Missing().All() {
		r := blob.PieceRange(size, i)
		if _, err := b.PutPiece(i, bytes.NewReader(body[r.Start:r.End]), nil); err != nil {
			return err
		}
	}
	if err := b.Commit(ctx); err != nil {
		return err
	}
	if f.cfg.Sign == nil {
		return nil
	}
	return signMap(ctx, b, f.cfg.Sign)
}

// asked verifies a manifest that came for a tag or a digest.
func asked(m Manifest, reference string) (Manifest, error) {
	want := m.Descriptor.Digest
	if strings.Contains(reference, ":") {
		want = blob.Digest(reference)
	}
	if _, err := blob.ParseDigest(want.String()); err != nil {
		return Manifest{}, fmt.Errorf("%w: the registry names no usable digest: %w", ErrUnavailable, err)
	}
	return checkManifest(m, want)
}

// keepRecord stores a tag record that fits what it came with.
func (f *Fetcher) keepRecord(rec *blob.TagRecord, ref blob.Ref, tag string, d blob.Digest) {
	if f.cfg.Tags == nil || rec.Ref != ref || rec.Tag != tag || rec.Digest != d || !f.believed(rec) {
		return
	}
	if err := f.cfg.Tags.PutTag(rec); err != nil {
		f.log.Warn("a tag record cannot be kept; the tag cannot be resolved without a supernode", "ref", ref, "tag", tag, "err", err)
	}
}

func (f *Fetcher) believed(rec *blob.TagRecord) bool {
	return f.cfg.Verify != nil && rec.Check(f.cfg.Verify) == nil
}

// newestRecord is the newest believed record of a tag, of our own and the
// neighbours', within the offline grace; nil when there is none.
func (f *Fetcher) newestRecord(ctx context.Context, ref blob.Ref, tag string) *blob.TagRecord {
	if f.cfg.OfflineGrace <= 0 {
		return nil
	}
	var records []*blob.TagRecord
	if f.cfg.Tags != nil {
		if own, err := f.cfg.Tags.Tag(ref, tag); err == nil && own != nil {
			records = append(records, own)
		}
	}
	if f.cfg.TagsNear != nil {
		near, cancel := context.WithTimeout(ctx, nearWait)
		found, err := f.cfg.TagsNear.FindTags(near, ref, tag)
		cancel()
		if err != nil {
			f.log.Debug("neighbours could not be asked for a tag", "ref", ref, "tag", tag, "err", err)
		}
		records = append(records, found...)
	}
	believed := records[:0]
	for _, rec := range records {
		if rec != nil && rec.Ref == ref && rec.Tag == tag && f.believed(rec) {
			believed = append(believed, rec)
		}
	}
	return newest(believed, time.Now(), f.cfg.OfflineGrace)
}

// newest is the latest of the records that are young enough: the higher epoch
// wins, then the later time.
func newest(records []*blob.TagRecord, now time.Time, grace time.Duration) *blob.TagRecord {
	var best *blob.TagRecord
	for _, rec := range records {
		if now.Sub(rec.Time) > grace {
			continue
		}
		if best == nil || rec.Epoch > best.Epoch || rec.Epoch == best.Epoch && rec.Time.After(best.Time) {
			best = rec
		}
	}
	return best
}
