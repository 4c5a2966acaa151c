package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// start is in the middle of a day, so that hours may pass within it.
var start = time.Date(2026, 3, 5, 12, 0, 0, 0, time.UTC)

// desk is an audit in a folder, with a clock that stands still.
type desk struct {
	*Log
	t      *testing.T
	cfg    Config
	offset atomic.Int64
	said   bytes.Buffer
}

func (d *desk) now() time.Time { return start.Add(time.Duration(d.offset.Load())) }

func (d *desk) pass(by time.Duration) { d.offset.Add(int64(by)) }

func sign(message []byte) (string, []byte, error) {
	sum := sha256.Sum256(append([]byte("the key"), message...))
	return "us", sum[:], nil
}

func verify(signer string, message, signature []byte) error {
	if _, want, _ := sign(message); signer != "us" || !bytes.Equal(want, signature) {
		return errors.New("not our signature")
	}
	return nil
}

func newDesk(t *testing.T, change ...func(*Config)) *desk {
	t.Helper()
	d := &desk{t: t}
	d.cfg = Config{Dir: filepath.Join(t.TempDir(), "audit"), Sign: sign, Verify: verify, Now: d.now, Log: slog.New(slog.NewTextHandler(&d.said, nil))}
	for _, c := range change {
		c(&d.cfg)
	}
	d.open()
	t.Cleanup(func() { d.Close() })
	return d
}

func (d *desk) open() {
	d.t.Helper()
	l, err := Open(d.cfg)
	if err != nil {
		d.t.Fatal(err)
	}
	d.Log = l
}

// again closes the audit, lets change have the folder, and opens it.
func (d *desk) again(change func(dir string)) {
	d.t.Helper()
	if err := d.Close(); err != nil {
		d.t.Fatal(err)
	}
	change(d.cfg.Dir)
	d.open()
}

func (d *desk) flush() {
	d.t.Helper()
	if err := d.Flush(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) search(q Query) []Row {
	d.t.Helper()
	rows, next, err := d.Search(d.t.Context(), q, 0, 0)
	if err != nil || next != 0 {
		d.t.Fatal(next, err)
	}
	return rows
}

// broken is the places that Verify names.
func (d *desk) broken() []uint64 {
	d.t.Helper()
	report, err := d.Verify(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	var at []uint64
	for _, b := range report.Broken {
		if !strings.Contains(b.Error(), "the audit is broken") || b.What == "" {
			d.t.Errorf("%+v says nothing", b)
		}
		at = append(at, b.Sequence)
	}
	return at
}

func event(i int) Event {
	return Event{Subject: "ann", Action: "image.push", Object: fmt.Sprintf("demo/app:v%d", i), Project: "demo", From: "192.0.2.1", Allowed: true,
		Detail: map[string]string{"digest": "sha256:1234"}}
}

func (d *desk) record(n int) {
	for i := range n {
		d.Record(event(i + 1))
	}
	d.flush()
}

func onlySegment(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	return files[0]
}

// edit changes the lines of the one segment.
func edit(t *testing.T, dir string, change func(lines [][]byte) [][]byte) {
	t.Helper()
	path := onlySegment(t, dir)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(data, []byte{'\n'})
	if err := os.WriteFile(path, bytes.Join(change(lines[:len(lines)-1]), nil), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRowsAreKeptInOrderAcrossRestarts(t *testing.T) {
	d := newDesk(t)
	d.record(3)
	d.again(func(string) {})
	d.pass(time.Second)
	d.Record(Event{Subject: "bob", Action: "login", Reason: "wrong user name or password"})
	rows := d.search(Query{})
	if len(rows) != 4 {
		t.Fatalf("%d rows: %+v", len(rows), rows)
	}
	want := event(2)
	got := rows[2]
	if got.Sequence != 2 || !got.Time.Equal(start) || got.Subject != want.Subject || got.Action != want.Action || got.Object != want.Object ||
		got.Project != "demo" || got.From != want.From || !got.Allowed || got.Detail["digest"] != "sha256:1234" {
		t.Errorf("row 2 is %+v", got)
	}
	if rows[0].Sequence != 4 || rows[0].Allowed || !rows[0].Time.Equal(start.Add(time.Second)) {
		t.Errorf("row 4 is %+v", rows[0])
	}
	if at := d.broken(); at != nil {
		t.Errorf("broken at %v", at)
	}
	if d.said.Len() > 0 {
		t.Errorf("the log: %s", &d.said)
	}
}

// The whole point: nothing is changed without a trace, while the audit runs
// and when it is opened again.
func TestVerifyFindsWhatWasTamperedWith(t *testing.T) {
	forge := func(line []byte, change func(*Row)) []byte {
		row, err := decode(bytes.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		change(&row)
		out, err := row.encode()
		if err != nil {
			t.Fatal(err)
		}
		return append(out, '\n')
	}
	cases := map[string]struct {
		change func(lines [][]byte) [][]byte
		want   uint64 // the first broken place
		again  uint64 // after a restart, if that differs
	}{
		"a word changed": {func(l [][]byte) [][]byte {
			l[4] = bytes.Replace(l[4], []byte("ann"), []byte("bob"), 1)
			return l
		}, 6, 0},
		"the last row changed": {func(l [][]byte) [][]byte {
			l[9] = bytes.Replace(l[9], []byte("ann"), []byte("bob"), 1)
			return l
		}, 10, 11},
		"a refusal made a permission": {func(l [][]byte) [][]byte {
			l[0] = forge(l[0], func(r *Row) { r.Allowed = false })
			return l
		}, 2, 0},
		"removed": {func(l [][]byte) [][]byte { return append(l[:3:3], l[4:]...) }, 4, 0},
		"removed and joined": {func(l [][]byte) [][]byte {
			l[4] = forge(l[4], func(r *Row) { r.Sequence = 4 })
			return append(l[:3:3], l[4:]...)
		}, 4, 0},
		"the first removed": {func(l [][]byte) [][]byte { return l[1:] }, 1, 0},
		"the last removed":  {func(l [][]byte) [][]byte { return l[:9] }, 10, 0},
		"all removed":       {func([][]byte) [][]byte { return nil }, 10, 1},
		"reordered":         {func(l [][]byte) [][]byte { l[5], l[6] = l[6], l[5]; return l }, 6, 0},
		"repeated":          {func(l [][]byte) [][]byte { return append(l[:4:4], l[3:]...) }, 5, 0},
		"garbage":           {func(l [][]byte) [][]byte { l[5] = []byte("{}\n"); return l }, 6, 0},
		"an end cut off": {func(l [][]byte) [][]byte {
			l[9] = l[9][:len(l[9])-2]
			return l
		}, 10, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			d.record(10)
			edit(t, d.cfg.Dir, c.change)
			running := d.broken()
			if len(running) == 0 || running[0] != c.want {
				t.Errorf("while it runs: broken at %v, want %v", running, c.want)
			}
			d.again(func(string) {})
			d.record(2)
			want := c.want
			if c.again != 0 {
				want = c.again
			}
			if at := d.broken(); len(at) == 0 || at[0] != want {
				t.Errorf("opened again: broken at %v, want %v", at, want)
			}
			if rows := d.search(Query{}); len(rows) < 2 || rows[0].Object != "demo/app:v2" {
				t.Errorf("it does not go on: %+v", rows)
			}
		})
	}
}

// A row at the end that the chain would bear is one that was not signed yet;
// the signature itself is nobody else's to make.
func TestTheEndsAreSigned(t *testing.T) {
	d := newDesk(t)
	d.record(3)
	var early []byte
	d.again(func(dir string) {
		var err error
		if early, err = os.ReadFile(filepath.Join(dir, endsFile)); err != nil {
			t.Fatal(err)
		}
	})
	d.record(3)
	for name, change := range map[string]func(path string){
		"gone": func(path string) { os.Remove(path) },
		"forged": func(path string) {
			os.WriteFile(path, bytes.Replace(early, []byte(`"sequence":3`), []byte(`"sequence":6`), 1), 0o600)
		},
		"junk": func(path string) { os.WriteFile(path, []byte("junk"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(d.cfg.Dir)); err != nil {
				t.Fatal(err)
			}
			own := newDesk(t, func(c *Config) { c.Dir = dir })
			own.again(func(dir string) { change(filepath.Join(dir, endsFile)) })
			if rows := own.search(Query{Action: "audit.broken"}); len(rows) != 1 || rows[0].Reason == "" {
				t.Errorf("no row tells: %+v", rows)
			}
			if own.broken() == nil || !strings.Contains(own.said.String(), "not as it was left") {
				t.Errorf("nothing is said of it: %v %s", own.broken(), &own.said)
			}
			change(filepath.Join(dir, endsFile))
			if own.broken() == nil {
				t.Error("while it runs, nothing is said of it")
			}
		})
	}
}

// A power cut leaves any part of what was being written, and no rows that were
// told to be on disk are missing afterwards.
func TestPowerCutInTheMiddleOfAWrite(t *testing.T) {
	d := newDesk(t)
	d.record(3)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	signed, err := os.ReadFile(filepath.Join(d.cfg.Dir, endsFile))
	whole, err2 := os.ReadFile(onlySegment(t, d.cfg.Dir))
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	d.open()
	d.record(2)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	longer, err := os.ReadFile(onlySegment(t, d.cfg.Dir))
	if err != nil {
		t.Fatal(err)
	}
	fourth := len(whole) + bytes.IndexByte(longer[len(whole):], '\n') + 1
	for size := len(whole); size <= len(longer); size += 7 {
		for _, after := range []string{"", "\x00\n\x00", strings.Repeat("\x00", 4096)} {
			left := append(bytes.Clone(longer[:size]), after...)
			if err := errors.Join(os.WriteFile(filepath.Join(d.cfg.Dir, endsFile), signed, 0o600), os.WriteFile(onlySegment(t, d.cfg.Dir), left, 0o600)); err != nil {
				t.Fatal(err)
			}
			d.open()
			at := d.broken()
			rows := len(d.search(Query{Action: "image"}))
			want := 3
			if size >= fourth {
				want = 4
			}
			if size == len(longer) {
				want = 5
			}
			if at != nil || rows != want {
				t.Errorf("%d of %d bytes and %d: broken at %v, %d rows, want %d", size, len(longer), len(after), at, rows, want)
			}
			d.again(func(string) {}) // nothing of it is left to be found once more
			if told := len(d.search(Query{Action: "audit.resume"})); told != 1 && (size > len(whole) || after != "") {
				t.Errorf("%d bytes and %d: %d rows tell of it", size, len(after), told)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	d.open()
}

func TestExportCanBeCheckedAnywhere(t *testing.T) {
	d := newDesk(t)
	d.record(5)
	var previous string
	n := 0
	err := d.Export(t.Context(), Query{}, func(line []byte) error {
		var row struct{ Previous string }
		if err := json.Unmarshal(line, &row); err != nil {
			return err
		}
		if n > 0 && row.Previous != previous {
			t.Errorf("line %d does not follow", n+1)
		}
		sum := sha256.Sum256(line)
		previous = hex.EncodeToString(sum[:])
		n++
		return nil
	})
	if err != nil || n != 5 {
		t.Errorf("%d lines, %v", n, err)
	}
	stop := errors.New("enough")
	if err := d.Export(t.Context(), Query{Object: "demo/app:v3"}, func([]byte) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Export(gone, Query{}, func([]byte) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
