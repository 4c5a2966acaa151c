package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func objects(rows []Row) (out []string) {
	for _, r := range rows {
		out = append(out, r.Object)
	}
	return out
}

func TestSearchNarrows(t *testing.T) {
	d := newDesk(t)
	for i, e := range []Event{
		{Subject: "ann", Action: "image.push", Object: "demo/app:v1", Project: "demo", Allowed: true},
		{Subject: "bob", Action: "image.push", Object: "demo/app2:v1", Project: "demo", Reason: "not allowed"},
		{Subject: "ann", Action: "image-list.get", Object: "demo", Project: "demo", Allowed: true},
		{Subject: "ann", Action: "member.set", Object: "user:bob", Project: "other", Allowed: true},
		{Subject: "ann", Action: "login", Allowed: true},
	} {
		d.pass(time.Hour)
		d.Record(e)
		if i == 3 {
			d.pass(24 * time.Hour) // another day, another segment
		}
	}
	hour := func(n int) time.Time { return start.Add(time.Duration(n) * time.Hour) }
	for name, c := range map[string]struct {
		q    Query
		want []string
	}{
		"all":              {Query{}, []string{"", "user:bob", "demo", "demo/app2:v1", "demo/app:v1"}},
		"subject":          {Query{Subject: "bob"}, []string{"demo/app2:v1"}},
		"action":           {Query{Action: "image.push"}, []string{"demo/app2:v1", "demo/app:v1"}},
		"actions below":    {Query{Action: "image"}, []string{"demo/app2:v1", "demo/app:v1"}},
		"object":           {Query{Object: "demo/app:v1"}, []string{"demo/app:v1"}},
		"objects below":    {Query{Object: "demo/app"}, []string{"demo/app:v1"}},
		"a whole project":  {Query{Object: "demo"}, []string{"demo", "demo/app2:v1", "demo/app:v1"}},
		"no such object":   {Query{Object: "dem"}, nil},
		"project":          {Query{Project: "other"}, []string{"user:bob"}},
		"denied":           {Query{Denied: true}, []string{"demo/app2:v1"}},
		"since, inclusive": {Query{Since: hour(4)}, []string{"", "user:bob"}},
		"until, inclusive": {Query{Until: hour(2)}, []string{"demo/app2:v1", "demo/app:v1"}},
		"between":          {Query{Since: hour(2), Until: hour(3)}, []string{"demo", "demo/app2:v1"}},
		"the next day":     {Query{Since: hour(5)}, []string{""}},
		"later":            {Query{Since: hour(100)}, nil},
	} {
		if got := objects(d.search(c.q)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		var exported []string
		err := d.Export(t.Context(), c.q, func(line []byte) error {
			row, err := decode(line)
			exported = append(exported, row.Object)
			return err
		})
		slices.Reverse(exported)
		if err != nil || !slices.Equal(exported, c.want) {
			t.Errorf("%s, exported: %q, want %q; %v", name, exported, c.want, err)
		}
	}
	if files, err := filepath.Glob(filepath.Join(d.cfg.Dir, "*"+segmentSuffix)); len(files) != 2 {
		t.Errorf("%q %v: want a segment a day", files, err)
	}
}

// Pages join without gap or repeat, over the borders of segments, while rows
// are added.
func TestSearchPages(t *testing.T) {
	d := newDesk(t)
	for day := range 3 {
		for i := range 7 {
			d.Record(event(10*day + i))
		}
		d.flush()
		d.pass(24 * time.Hour)
	}
	var got []uint64
	for before := uint64(0); ; {
		rows, next, err := d.Search(t.Context(), Query{Subject: "ann"}, before, 4)
		if err != nil || len(rows) > 4 {
			t.Fatal(len(rows), err)
		}
		for _, r := range rows {
			got = append(got, r.Sequence)
		}
		d.Record(Event{Subject: "bob", Action: "login", Allowed: true})
		if before = next; next == 0 {
			break
		}
	}
	var want []uint64
	for i := uint64(21); i > 0; i-- {
		want = append(want, i)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestExpired(t *testing.T) {
	day := 24 * time.Hour
	list := []segment{{1, start, 10}, {11, start.Add(day), 10}, {21, start.Add(2 * day), 10}, {31, start.Add(3 * day), 10}}
	midnight := dayOf(start)
	for name, c := range map[string]struct {
		now   time.Time
		keep  time.Duration
		limit int64
		want  int
	}{
		"nothing is bounded":           {start.Add(1000 * day), 0, 0, 0},
		"a day goes as a whole":        {midnight.Add(2*day - 1), day, 0, 0},
		"when all of it is old":        {midnight.Add(2 * day), day, 0, 1},
		"several":                      {midnight.Add(4 * day), day, 0, 3},
		"the newest stays":             {start.Add(1000 * day), day, 1, 3},
		"what fits stays":              {start, day, 40, 0},
		"the oldest go for the limit":  {start, day, 39, 1},
		"as many as are needed":        {start, 0, 15, 3},
		"age and size, whichever more": {midnight.Add(3 * day), day, 35, 2},
	} {
		if got := expired(list, c.now, c.keep, c.limit); got != c.want {
			t.Errorf("%s: %d segments go, want %d", name, got, c.want)
		}
	}
	if expired(nil, start, day, 1) != 0 {
		t.Error("of nothing")
	}
}

// What is too old goes by itself, the rest stays whole, and a crash in between
// is finished at the next start.
func TestOldRowsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, func(c *Config) { c.Keep, c.Now = 48*time.Hour, time.Now })
		defer func() { d.Close() }()
		var first []byte
		for day := range 5 {
			d.record(2)
			if day == 0 {
				var err error
				if first, err = os.ReadFile(onlySegment(t, d.cfg.Dir)); err != nil {
					t.Fatal(err)
				}
			}
			<-time.After(24 * time.Hour)
		}
		rows := d.search(Query{Action: "image"})
		all := d.search(Query{})
		oldest := all[len(all)-1]
		if len(rows) != 4 && len(rows) != 6 || time.Since(oldest.Time) > 73*time.Hour {
			t.Errorf("%d rows, the oldest %v old", len(rows), time.Since(oldest.Time))
		}
		if told := d.search(Query{Action: "audit.trim"}); len(told) == 0 || told[0].Detail["through"] != fmt.Sprint(oldest.Sequence-1) {
			t.Errorf("told %+v, the oldest is row %d", told, oldest.Sequence)
		}
		if at := d.broken(); at != nil {
			t.Errorf("broken at %v", at)
		}
		d.again(func(dir string) {
			if err := os.WriteFile(filepath.Join(dir, segmentName(1)), first, 0o600); err != nil {
				t.Fatal(err)
			}
		})
		if at, now := d.broken(), d.search(Query{Action: "image"}); at != nil || len(now) != len(rows) {
			t.Errorf("broken at %v, %d rows", at, len(now))
		}
	})
}

// Segments stay small, whatever a day brings.
func TestSegmentsEnd(t *testing.T) {
	d := newDesk(t)
	long := event(1)
	for i := range maxDetails {
		long.Detail[fmt.Sprint(i)] = string(make([]byte, maxDetail))
	}
	line, err := (&Row{Sequence: 1, Event: long.bounded()}).encode()
	if err != nil {
		t.Fatal(err)
	}
	n := segmentBytes/len(line) + 100
	for i := range n {
		d.Record(long)
		if i%50 == 0 {
			d.flush()
		}
	}
	d.flush()
	segments, _ := d.snapshot()
	if len(segments) != 2 || segments[0].size > maxSegment || segments[0].size < segmentBytes {
		t.Errorf("%+v", segments)
	}
	if at := d.broken(); at != nil {
		t.Errorf("broken at %v", at)
	}
	d.again(func(string) {})
	if rows := d.search(Query{}); len(rows) != n || rows[n-1].Sequence != 1 {
		t.Errorf("%d rows of %d", len(rows), n)
	}
}

// A clock that steps back a little disturbs nothing; one that was set right
// after a year is believed.
func TestClockSteps(t *testing.T) {
	d := newDesk(t)
	d.record(1)
	d.pass(-time.Minute)
	d.record(1)
	if rows := d.search(Query{}); !rows[0].Time.Equal(start) {
		t.Errorf("a step of a minute: %v", rows[0].Time)
	}
	d.pass(365 * 24 * time.Hour)
	d.record(1)
	d.pass(-365 * 24 * time.Hour)
	d.Record(event(9))
	rows := d.search(Query{Until: start.Add(time.Hour)})
	if len(rows) != 3 || rows[0].Object != "demo/app:v9" || rows[0].Time.After(start) || d.broken() != nil {
		t.Errorf("%+v, broken at %v", rows, d.broken())
	}
}
