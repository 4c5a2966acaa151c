package dfget

import "testing"

func TestCut(t *testing.T) {
	for _, c := range []struct {
		line  string
		width int
		want  string
	}{
		{"host-1  demo/app:v1", 80, "host-1  demo/app:v1"},
		{"host-1  demo/app:v1", 19, "host-1  demo/app:v1"},
		{"host-1  demo/app:v1", 18, "host-1  demo/app:…"},
		{"größer als das", 5, "größ…"},
		{"no terminal", 0, "no terminal"},
	} {
		if got := cut(c.line, c.width); got != c.want {
			t.Errorf("cut(%q, %d) = %q, want %q", c.line, c.width, got, c.want)
		}
	}
}
