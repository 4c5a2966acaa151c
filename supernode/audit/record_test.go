package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestRowsAreBounded(t *testing.T) {
	d := newDesk(t)
	nasty := strings.Repeat("\x00", 5000)
	long := Event{Subject: nasty, Action: nasty, Object: nasty, Project: nasty, From: nasty, Reason: nasty, Detail: map[string]string{}}
	for i := range 100 {
		long.Detail[fmt.Sprint(i)+nasty] = nasty
	}
	d.Record(long)
	d.Record(Event{Action: "login", Object: strings.Repeat("ä", maxObject), Subject: "\xff", Allowed: true})
	rows := d.search(Query{})
	if len(rows) != 2 {
		t.Fatalf("%d rows", len(rows))
	}
	if r := rows[1]; len(r.Subject) != maxSubject || len(r.Object) != maxObject || len(r.Detail) != maxDetails || !strings.HasSuffix(r.Reason, "…") {
		t.Errorf("%d bytes of subject, %d of object, %d details", len(r.Subject), len(r.Object), len(r.Detail))
	}
	if r := rows[0]; r.Subject != "\uFFFD" || len(r.Object) > maxObject || !strings.HasPrefix(r.Object, "ää") || !strings.HasSuffix(r.Object, "ä…") {
		t.Errorf("%q %q", r.Subject, r.Object)
	}
	if info, err := os.Stat(onlySegment(t, d.cfg.Dir)); err != nil || info.Size() > 2*maxLine {
		t.Error(info.Size(), err)
	}
}

func TestLineThatIsTooLongIsNotRead(t *testing.T) {
	if _, err := decode(bytes.Repeat([]byte("a"), maxLine+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Error(err)
	}
	d := newDesk(t)
	d.record(1)
	if err := os.Truncate(onlySegment(t, d.cfg.Dir), maxSegment+1); err != nil {
		t.Fatal(err)
	}
	d.again(func(string) {})
	if at := d.broken(); len(at) == 0 || at[0] != 1 {
		t.Errorf("broken at %v", at)
	}
}

func TestRefusalsAndWhatIsOftenDoneAreCounted(t *testing.T) {
	d := newDesk(t, func(c *Config) { c.Window = time.Minute })
	denied := Event{Subject: "bob", Action: "image.pull", Object: "demo/app:v1", From: "192.0.2.1", Reason: "not allowed"}
	often := Event{Subject: "ann", Action: "image.pull", Object: "demo/app:v1", From: "192.0.2.1", Allowed: true, Often: true}
	for range 10 {
		d.Record(denied)
		d.Record(often)
		d.Record(event(1)) // never summed up
	}
	told := often
	told.Detail = map[string]string{byDetail: "node:1", "reader": "127.0.0.1"}
	d.Record(told)
	d.Record(told)
	other := denied
	other.Object = "demo/app:v2"
	d.Record(other)
	if rows := d.search(Query{}); len(rows) != 14 {
		t.Fatalf("%d rows, want the first of each kind and 10 pushes", len(rows))
	}
	d.again(func(string) {}) // the end of the program ends the windows
	rows := d.search(Query{Object: "demo/app:v1"})
	if len(rows) != 16 || rows[0].More != 1 || rows[0].Detail[byDetail] != "node:1" || rows[1].More != 9 || rows[2].More != 9 || rows[1].Allowed == rows[2].Allowed {
		t.Errorf("%d rows, %+v", len(rows), rows[:3])
	}
}

func TestRepeats(t *testing.T) {
	r := newRepeats(time.Minute)
	from := func(i int) Event { return Event{Subject: Unknown, Action: "login", From: fmt.Sprint(i)} }
	for i := range 1000 {
		e := from(i % 500)
		e.Object = fmt.Sprint(i) // theirs to vary
		first := r.take(start, e)
		switch {
		case (i < maxStrangers || i == maxStrangers) != (first != nil):
			t.Fatalf("stranger %d: written %v", i, first != nil)
		case i == maxStrangers && first.Subject != many:
			t.Errorf("stranger %d is %+v", i, first)
		}
	}
	if due := r.due(start.Add(time.Minute - 1)); due != nil {
		t.Errorf("before the end of the window: %+v", due)
	}
	due := r.due(start.Add(time.Minute))
	var total uint64
	for _, one := range due {
		total += one.more
	}
	if total != 1000-maxStrangers-1 || len(r.kinds) != 0 || len(r.order) != 0 || r.strangers != 0 {
		t.Errorf("%d counted, %d kinds, %d strangers left", total, len(r.kinds), r.strangers)
	}
	r = newRepeats(time.Minute)
	counted := Event{Subject: "ann", Action: "image.pull", Times: 5}
	if r.take(start, counted) == nil || r.take(start, counted) != nil {
		t.Error("the first of a kind is written, the second is not")
	}
	if due := r.due(time.Time{}); len(due) != 1 || due[0].more != 9 {
		t.Errorf("5 and 5 times, one of them written: %+v", due)
	}
	r = newRepeats(time.Minute)
	for i := range 2 * maxKinds {
		r.take(start, Event{Subject: "ann", Action: "image.pull", Object: fmt.Sprint(i)})
	}
	if len(r.kinds) != maxKinds+1 {
		t.Errorf("%d kinds are told apart", len(r.kinds))
	}
}

func TestWhatFindsNoRoomIsInTheLog(t *testing.T) {
	metrics := prometheus.NewRegistry()
	d := newDesk(t, func(c *Config) { c.Queue = 1 })
	entered, leave := make(chan struct{}), make(chan struct{})
	slow := func(message []byte) (string, []byte, error) {
		select {
		case entered <- struct{}{}:
			<-leave
		case <-leave:
		}
		return sign(message)
	}
	d.again(func(string) { d.cfg.Sign, d.cfg.Metrics = slow, metrics })
	d.Record(event(1))
	<-entered // the writer is busy
	d.Record(event(2))
	d.Record(event(3))
	if !strings.Contains(d.said.String(), "an event is missing from the audit") || !strings.Contains(d.said.String(), "demo/app:v3") {
		t.Errorf("the log: %s", &d.said)
	}
	close(leave)
	if rows := d.search(Query{}); len(rows) != 2 {
		t.Errorf("%d rows", len(rows))
	}
	d.Close()
	d.Record(event(4))
	if !strings.Contains(d.said.String(), "demo/app:v4") {
		t.Errorf("after the end: %s", &d.said)
	}
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]float64{}
	for _, f := range families {
		counted[f.GetName()] = f.GetMetric()[0].GetCounter().GetValue()
	}
	if counted["shoal_audit_lost_total"] != 2 || counted["shoal_audit_rows_total"] != 2 {
		t.Errorf("counted %v", counted)
	}
}

// A disk that takes nothing for a while costs no rows.
func TestWritesAreTriedAgain(t *testing.T) {
	d := newDesk(t)
	d.record(1)
	var failing atomic.Bool
	failing.Store(true)
	tried := make(chan struct{}, 100)
	d.again(func(string) {
		d.cfg.Sign = func(message []byte) (string, []byte, error) {
			if failing.Load() {
				tried <- struct{}{}
				return "", nil, errors.New("no signature today")
			}
			return sign(message)
		}
	})
	d.Record(event(2))
	<-tried
	<-tried
	failing.Store(false)
	d.flush()
	if rows := d.search(Query{}); len(rows) != 2 || d.broken() != nil {
		t.Errorf("%d rows, broken at %v", len(rows), d.broken())
	}
	path := onlySegment(t, d.cfg.Dir)
	d.again(func(string) {})
	if err := d.file.Close(); err != nil { // every write fails from here on
		t.Fatal(err)
	}
	d.Record(event(3))
	d.Close()
	if !strings.Contains(d.said.String(), "demo/app:v3") {
		t.Errorf("what was not written is not in the log: %s", &d.said)
	}
	if data, err := os.ReadFile(path); err != nil || bytes.Count(data, []byte{'\n'}) != 2 {
		t.Errorf("%s %v", data, err)
	}
}
