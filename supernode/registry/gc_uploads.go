package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/objects"
)

const (
	// idleAfter is for how long an upload must rest before it may be dropped to
	// make room. Clients that push go on within seconds.
	idleAfter = 10 * time.Minute
	// reserveShare and reserveMost say what counts as no room: less than this
	// share of the disk, and less than so many bytes.
	reserveShare = 50
	reserveMost  = 2 << 30
)

// noRoom reports whether a disk is as good as full.
func noRoom(free, total int64) bool { return free < min(total/reserveShare, reserveMost) }

// resting is an upload that nobody writes to: a session, or, without a key,
// half-written bytes that no session knows.
type resting struct {
	object   string
	since    time.Time
	key      string
	revision meta.Revision
}

// restingUploads lists what has rested since before a time, longest first.
func (g *Registry) restingUploads(ctx context.Context, before time.Time) ([]resting, error) {
	var out []resting
	known := map[string]bool{}
	for v, err := range meta.Scan(ctx, g.Meta, keyUpload("")) {
		var record uploadRecord
		if err == nil {
			err = decode(v, &record)
		}
		if err != nil {
			return nil, err
		}
		known[record.Object] = true
		if !record.Touched.After(before) {
			out = append(out, resting{record.Object, record.Touched, v.Key, v.Revision})
		}
	}
	infos, err := g.Objects.Uploads(ctx)
	if err != nil {
		return nil, err
	}
	for _, info := range infos {
		if !known[info.Key] && !info.Modified.After(before) {
			out = append(out, resting{object: info.Key, since: info.Modified})
		}
	}
	slices.SortStableFunc(out, func(a, b resting) int { return a.since.Compare(b.since) })
	return out, nil
}

// dropUpload ends an upload, unless somebody goes on with it by now.
func (g *Registry) dropUpload(ctx context.Context, u resting) (dropped bool, err error) {
	if err := g.Objects.Discard(ctx, u.object); err != nil {
		if errors.Is(err, objects.ErrBusy) {
			return false, nil
		}
		return false, err
	}
	if u.key == "" {
		return true, nil
	}
	_, err = g.Meta.Commit(ctx, []meta.Compare{{Key: u.key, Revision: u.revision}}, []meta.Op{meta.Delete(u.key)})
	skip, err := unlessOvertaken(err)
	return !skip && err == nil, err
}

// collectUploads ends the sessions that rested too long, and half-written
// objects that no session knows.
func (g *Registry) collectUploads(ctx context.Context, report *GCReport) error {
	list, err := g.restingUploads(ctx, g.Now().Add(-g.UploadTTL))
	if err != nil {
		return err
	}
	for _, u := range list {
		dropped, err := g.dropUpload(ctx, u)
		if err != nil {
			return err
		}
		if dropped {
			report.Uploads++
		}
	}
	dropped, err := g.MakeRoom(ctx)
	report.Uploads += dropped
	return err
}

// MakeRoom drops uploads that rest, longest first, for as long as the disk is
// as good as full: then they do not get the time that Config.UploadTTL gives
// them. While there is room it does nothing; call it every minute or so.
func (g *Registry) MakeRoom(ctx context.Context) (dropped int, err error) {
	roomer, ok := g.Objects.(objects.Roomer)
	if !ok {
		return 0, nil
	}
	full := func() (bool, error) {
		free, total, err := roomer.Room()
		return noRoom(free, total), err
	}
	if is, err := full(); !is || err != nil {
		return 0, err
	}
	list, err := g.restingUploads(ctx, g.Now().Add(-idleAfter))
	if err != nil {
		return 0, fmt.Errorf("make room: %w", err)
	}
	for _, u := range list {
		gone, err := g.dropUpload(ctx, u)
		if err != nil {
			return dropped, fmt.Errorf("make room: %w", err)
		}
		if gone {
			dropped++
		}
		is, err := full()
		if err != nil {
			return dropped, fmt.Errorf("make room: %w", err)
		}
		if !is {
			break
		}
	}
	if dropped > 0 {
		g.Log.Warn("the disk is full: uploads that rested were dropped", "uploads", dropped)
	}
	return dropped, nil
}
