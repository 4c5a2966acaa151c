package fetch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	// sizesKept bounds the sizes that are remembered.
	sizesKept = 8192
	// sizeAsks is how many neighbours are asked for a size at the same time.
	sizeAsks = 4
)

// sizes remembers what registries said about the sizes of blobs.
type sizes struct {
	mu    sync.Mutex // guards known
	known map[blob.Digest]int64
}

func (s *sizes) put(d blob.Digest, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil || len(s.known) >= sizesKept {
		s.known = map[blob.Digest]int64{}
	}
	s.known[d] = size
}

func (s *sizes) get(d blob.Digest) (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size, ok := s.known[d]
	return size, ok
}

func (s *sizes) forget(d blob.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, d)
}

// knownSize is a size that was learned before: from the flight in progress,
// from a registry, or from the manifest of a recent pull.
func (f *Fetcher) knownSize(d blob.Digest) (int64, bool) {
	f.mu.Lock()
	fl := f.flights[d]
	f.mu.Unlock()
	if fl != nil {
		if size := fl.knownSize(); size >= 0 {
			return size, true
		}
	}
	if size, ok := f.sizes.get(d); ok {
		return size, true
	}
	return f.ledger.size(d)
}

// Stat says how many bytes the blob has, without fetching them where that can
// be helped.
func (f *Fetcher) Stat(ctx context.Context, req Request) (int64, error) {
	if file, _, size, ok := f.whole(req.Digest); ok {
		file.Close()
		return size, nil
	}
	if err := f.refusals.find(req); err != nil {
		return 0, err
	}
	if size, ok := f.knownSize(req.Digest); ok {
		return size, nil
	}
	if size, err := f.statSource(ctx, req); err == nil {
		return size, nil
	} else if errors.Is(err, ErrNotFound) || errors.Is(err, ErrDenied) {
		return 0, err
	}
	fl, err := f.join(ctx, req)
	if err != nil {
		return 0, err
	}
	defer fl.leave()
	return fl.waitSize(ctx)
}

// statSource asks the supernode, which knows its own images and asks upstream
// once for everybody, or else upstream; once for all who ask at a time.
func (f *Fetcher) statSource(ctx context.Context, req Request) (int64, error) {
	src, _ := f.source(req.Ref)
	if f.cfg.Gateway != nil {
		src = f.cfg.Gateway
	}
	if src == nil {
		return 0, fmt.Errorf("%w: nobody to ask for the size of %s", ErrUnavailable, req.Digest)
	}
	origin := blob.Origin{Ref: req.Ref, Token: req.OriginToken}
	got := f.stats.DoChan(string(req.Digest)+"\x00"+req.Ref.String()+"\x00"+req.OriginToken, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readIdle)
		defer cancel()
		return f.askSize(ctx, src, origin, req.Digest)
	})
	select {
	case r := <-got:
		if r.Err != nil {
			return 0, r.Err
		}
		return r.Val.(int64), nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// askSize learns a blob's size from an HTTP source by asking for one byte.
func (f *Fetcher) askSize(ctx context.Context, src Source, o blob.Origin, d blob.Digest) (int64, error) {
	rc, size, err := src.Blob(ctx, o.Ref, d, blob.Range{Start: 0, End: 1}, o.Token)
	if err != nil {
		status, _ := f.classify(err)
		_, err = sortError(err, status)
		return 0, fmt.Errorf("ask for the size of %s: %w", d, err)
	}
	rc.Close()
	if size < 0 {
		return 0, fmt.Errorf("%w: the registry does not say the size of %s", ErrUnavailable, d)
	}
	f.sizes.put(d, size)
	return size, nil
}

// learnSize finds out how many bytes the blob has, where the request did not
// say: from a neighbour's signed map, or from the origin when the policy lets
// the flight go there.
func (fl *flight) learnSize(ctx context.Context, askDHT func()) (int64, error) {
	if size := fl.knownSize(); size >= 0 {
		return size, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, sizeWait,
		fmt.Errorf("%w: nobody told the size of %s within %s", ErrUnavailable, fl.digest, sizeWait))
	defer cancel()
	asked := map[string]time.Time{}
	for {
		if err := fl.trouble(); err != nil {
			return 0, err
		}
		v := decide(fl.facts())
		if v.askDHT {
			askDHT()
		}
		if size, ok := fl.sizeFromPeers(ctx, asked); ok {
			return fl.learned(size), nil
		}
		if size, ok := fl.sizeFromOrigin(ctx, v); ok {
			return fl.learned(size), nil
		}
		if v.giveUp {
			return 0, fl.hopeless(v)
		}
		timer := time.NewTimer(lookAgain)
		select {
		case <-ctx.Done():
			timer.Stop()
			return 0, context.Cause(ctx)
		case <-fl.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (fl *flight) learned(size int64) int64 {
	fl.rec.sized(size)
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.size = size
	close(fl.sized)
	return size
}

// sizeFromPeers asks a few neighbours at a time, those first that were not
// asked or not lately: a seed may only begin to know.
func (fl *flight) sizeFromPeers(ctx context.Context, asked map[string]time.Time) (int64, bool) {
	if fl.f.cfg.Swarm == nil {
		return 0, false
	}
	fl.mu.Lock()
	peers := fl.scouted.merged()
	fl.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	answers := make(chan int64)
	asking := 0
	for _, p := range peers {
		if at, ok := asked[p.ID]; asking == sizeAsks || ok && time.Since(at) < 2*stall {
			continue
		}
		asked[p.ID] = time.Now()
		asking++
		go func() {
			size, err := fl.f.cfg.Swarm.Size(ctx, fl.digest, p, fl.grant())
			if err != nil {
				size = -1
			}
			select {
			case answers <- size:
			case <-ctx.Done():
			}
		}()
	}
	for range asking {
		select {
		case size := <-answers:
			if size >= 0 {
				return size, true
			}
		case <-ctx.Done():
			return 0, false
		}
	}
	return 0, false
}

// sizeFromOrigin asks the HTTP source: the supernode at any time, a registry
// outside when the policy says so.
func (fl *flight) sizeFromOrigin(ctx context.Context, v verdict) (int64, bool) {
	fl.mu.Lock()
	l := fl.bestLead()
	rests := l != nil && time.Now().Before(l.rest)
	fl.mu.Unlock()
	if l == nil || rests || (l.road == upstreamWay && !v.fill) {
		return 0, false
	}
	src, _ := fl.f.source(l.origin.Ref)
	one, cancel := context.WithTimeout(ctx, readIdle)
	defer cancel()
	size, err := fl.f.askSize(one, src, l.origin, fl.digest)
	if err != nil {
		fl.leadFailed(l, err)
		return 0, false
	}
	return size, true
}
