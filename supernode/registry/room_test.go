package registry_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/shoalproject/shoal/supernode/objects"
	"github.com/shoalproject/shoal/supernode/registry"
)

// tight is a store on a disk of 100 bytes that has no more room than that for
// so many uploads.
type tight struct {
	objects.Store
	t    *testing.T
	fits int
}

func (s *tight) Room() (free, total int64, err error) {
	infos, err := s.Uploads(s.t.Context())
	if len(infos) <= s.fits {
		return 50, 100, err
	}
	return 1, 100, err
}

// On a full disk uploads that rest go, longest first, until there is room;
// those that somebody may be writing stay.
func TestAFullDiskEndsUploadsThatRest(t *testing.T) {
	disk := &tight{t: t, fits: 100}
	f := newFixture(t, func(c *registry.Config) {
		disk.Store = c.Objects
		c.Objects = disk
	})
	f.pass(time.Since(f.clock())) // the object store goes by the wall clock
	var sessions []string
	for range 4 {
		session := f.do("POST", "/v2/a/blobs/uploads/", nil).want(http.StatusAccepted).location()
		f.do("PATCH", session, strings.NewReader("half")).want(http.StatusAccepted)
		sessions = append(sessions, session)
		f.pass(5 * time.Minute)
	}
	left := func() (out string) {
		for i, session := range sessions {
			if f.do("GET", session, nil).Code == http.StatusNoContent {
				out += string(rune('0' + i))
			}
		}
		return out
	}
	for _, step := range []struct {
		fits    int
		dropped int
		left    string
	}{
		{4, 0, "0123"}, // there is room
		{3, 1, "123"},  // the longest is enough
		{0, 2, "3"},    // the last one rests for 5 minutes only
		{0, 0, "3"},
	} {
		disk.fits = step.fits
		if dropped, err := f.MakeRoom(t.Context()); err != nil || dropped != step.dropped || left() != step.left {
			t.Errorf("with room for %d: %d dropped, %v; left %s, want %s", step.fits, dropped, err, left(), step.left)
		}
	}
	f.pass(6 * time.Minute)
	if report := f.collect(); report.Uploads != 1 || left() != "" {
		t.Errorf("a collection dropped %d; left %s", report.Uploads, left())
	}
}
