package seed

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
)

const (
	// tagFresh is for how long a tag is not asked for again.
	tagFresh = 10 * time.Second
	// tagsKept bounds the tags that are remembered as fresh.
	tagsKept = 8192
)

// Manifest is a manifest that was read through.
type Manifest struct {
	Descriptor blob.Descriptor
	Body       []byte
	Age        time.Duration   // how long ago the tag was known to name this
	Record     *blob.TagRecord // signed; nil for a digest
}

type tagKey struct {
	ref   blob.Ref
	tag   string
	token [sha256.Size]byte
}

// tagState is what a tag named when it was last asked for.
type tagState struct {
	desc   blob.Descriptor
	asked  time.Time
	record *blob.TagRecord
}

// Manifest reads a manifest through, after it asked whether the reader may.
// Errors wrap ErrUnknownUpstream, fetch.ErrDenied, fetch.ErrNotFound or
// fetch.ErrUnavailable.
func (s *Seed) Manifest(ctx context.Context, who Reader, ref blob.Ref, reference string) (Manifest, error) {
	if err := s.may(ctx, who, ref, reference, true); err != nil {
		return Manifest{}, err
	}
	state := tagState{}
	digest := reference
	if !strings.Contains(reference, ":") {
		var err error
		if state, err = s.resolve(ctx, ref, reference, who.Token); err != nil {
			return Manifest{}, fmt.Errorf("resolve %s:%s: %w", ref, reference, err)
		}
		digest = state.desc.Digest.String()
	}
	m, err := s.once(ctx, "manifest\x00"+digest+"\x00"+ref.String()+"\x00"+who.Token, func(ctx context.Context) (any, error) {
		return s.fetcher.Manifest(ctx, ref, digest, fetch.Cred{Token: who.Token})
	})
	if err != nil {
		return Manifest{}, err
	}
	out := Manifest{Descriptor: m.(fetch.Manifest).Descriptor, Body: m.(fetch.Manifest).Body, Record: state.record}
	if state.desc.MediaType != "" {
		out.Descriptor.MediaType = state.desc.MediaType
	}
	if !state.asked.IsZero() {
		out.Age = time.Since(state.asked)
	}
	return out, nil
}

// once runs one call for all who ask for the same at the same time; it goes
// on when the first of them leaves.
func (s *Seed) once(ctx context.Context, key string, call func(context.Context) (any, error)) (any, error) {
	got := s.resolves.DoChan(key, func() (any, error) { return call(context.WithoutCancel(ctx)) })
	select {
	case r := <-got:
		return r.Val, r.Err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// resolve asks what a tag names, unless that was asked a moment ago. While
// the registry cannot be reached it is what it was last known to be.
func (s *Seed) resolve(ctx context.Context, ref blob.Ref, tag, token string) (tagState, error) {
	k := tagKey{ref: ref, tag: tag, token: sha256.Sum256([]byte(token))}
	known, ok := s.tags.Get(k)
	if ok && time.Since(known.asked) < tagFresh {
		return known, nil
	}
	got, err := s.once(ctx, "tag\x00"+ref.String()+"\x00"+tag+"\x00"+token, func(ctx context.Context) (any, error) {
		return s.ask(ctx, k, token)
	})
	if err == nil {
		return got.(tagState), nil
	}
	if errors.Is(err, fetch.ErrDenied) || errors.Is(err, fetch.ErrNotFound) {
		return tagState{}, err
	}
	if !ok {
		known, ok = s.recorded(ref, tag)
	}
	if ok && time.Since(known.asked) < s.cfg.StaleTags {
		s.log.Warn("a tag is served as it was last known: its registry cannot be reached", "ref", ref, "tag", tag, "age", time.Since(known.asked))
		return known, nil
	}
	return tagState{}, err
}

func (s *Seed) ask(ctx context.Context, k tagKey, token string) (tagState, error) {
	desc, err := s.cfg.Upstream.Head(ctx, k.ref, k.tag, token, nil)
	if err != nil {
		return tagState{}, sorted(err)
	}
	state := tagState{desc: desc, asked: time.Now()}
	state.record = s.record(k, state)
	s.tags.Add(k, state)
	return state, nil
}

// record signs what a tag names now and keeps that for a restart.
func (s *Seed) record(k tagKey, state tagState) *blob.TagRecord {
	if s.cfg.Sign == nil {
		return nil
	}
	rec := &blob.TagRecord{
		Ref: k.ref, Tag: k.tag, Digest: state.desc.Digest, MediaType: state.desc.MediaType, Size: state.desc.Size,
		Epoch: s.cfg.Epoch(), Time: state.asked.Truncate(time.Second),
	}
	err := rec.Sign(s.cfg.Sign)
	if err == nil && s.cfg.Tags != nil {
		err = s.cfg.Tags.PutTag(rec)
	}
	if err != nil {
		s.log.Warn("a tag is not remembered", "ref", k.ref, "tag", k.tag, "err", err)
	}
	return rec
}

// recorded is what a tag was known to name before a restart.
func (s *Seed) recorded(ref blob.Ref, tag string) (tagState, bool) {
	if s.cfg.Tags == nil {
		return tagState{}, false
	}
	rec, err := s.cfg.Tags.Tag(ref, tag)
	if err != nil || rec == nil {
		return tagState{}, false
	}
	return tagState{
		desc:  blob.Descriptor{Digest: rec.Digest, MediaType: rec.MediaType, Size: rec.Size},
		asked: rec.Time, record: rec,
	}, true
}

// sorted puts an error of the registry under one of pkg/fetch's names.
func sorted(err error) error {
	status, _ := Classify(err)
	switch status {
	case 401, 403:
		return fmt.Errorf("%w: %w", fetch.ErrDenied, err)
	case 404:
		return fmt.Errorf("%w: %w", fetch.ErrNotFound, err)
	}
	return fmt.Errorf("%w: %w", fetch.ErrUnavailable, err)
}

// Stat is the size of a blob in bytes.
func (s *Seed) Stat(ctx context.Context, who Reader, ref blob.Ref, d blob.Digest) (int64, error) {
	if err := s.may(ctx, who, ref, d.String(), false); err != nil {
		return 0, err
	}
	return s.fetcher.Stat(ctx, fetch.Request{Digest: d, Size: -1, Ref: ref, OriginToken: who.Token})
}

// Blob reads a part of a blob through; End -1 means to the end. Bytes of a
// piece come when the piece is there, the last ones when the whole digest was
// verified.
func (s *Seed) Blob(ctx context.Context, who Reader, ref blob.Ref, d blob.Digest, part blob.Range) (io.ReadCloser, error) {
	if err := s.may(ctx, who, ref, d.String(), false); err != nil {
		return nil, err
	}
	return s.fetcher.Open(ctx, fetch.Request{Digest: d, Size: -1, Ref: ref, OriginToken: who.Token}, part)
}
