package audit

import (
	"reflect"
	"testing"
)

// Whatever lies in a file is taken or refused, and what is taken is written
// again as it was read.
func FuzzDecode(f *testing.F) {
	line, err := (&Row{Sequence: 1, Time: start, Event: event(1), More: 3}).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add([]byte(`{"sequence":1,"previous":"00"}`))
	f.Add([]byte(`{"sequence":18446744073709551615,"time":"9999-12-31T23:59:59.999999999Z"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		row, err := decode(data)
		if err != nil {
			return
		}
		if row.Sequence == 0 || len(data) > maxLine {
			t.Fatalf("taken: %+v", row)
		}
		line, err := row.encode()
		if err != nil {
			return // it grew past the bound
		}
		again, err := decode(line)
		if err != nil || !reflect.DeepEqual(row, again) && len(row.Detail) > 0 {
			t.Fatalf("%+v became %+v: %v", row, again, err)
		}
	})
}

// A walk over garbage ends, and says what is wrong.
func FuzzVerify(f *testing.F) {
	f.Add([]byte("\n\n{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r Report
		c := chain{}
		c.verify(data, &r)
		if len(data) > 0 && r.Rows == 0 || len(r.Broken) > maxBroken {
			t.Fatalf("%+v", r)
		}
	})
}
