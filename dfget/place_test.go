package dfget

import (
	"strings"
	"testing"
)

func TestLogsOfSeveralDoNotRunIntoEachOther(t *testing.T) {
	var out strings.Builder
	p := linePrefixer{out: &out, rest: map[string]string{}}
	for _, piece := range [][2]string{{"a", "one\ntw"}, {"b", "three\n"}, {"a", "o\nfour"}, {"b", strings.Repeat("x", maxHeld)}} {
		p.write(piece[0], []byte(piece[1]))
	}
	p.end()
	want := "a | one\nb | three\na | two\nb | " + strings.Repeat("x", maxHeld) + "\na | four\n"
	if out.String() != want {
		t.Errorf("%.200q, want %.200q", out.String(), want)
	}
}
