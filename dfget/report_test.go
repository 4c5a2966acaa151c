package dfget

import (
	"strings"
	"testing"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func TestJSONTellsWhatIsZeroAndEmpty(t *testing.T) {
	for _, c := range []struct {
		name string
		say  func(*app) error
		want string
	}{
		{"an empty list", func(a *app) error { return a.printJSON(&shoalv1.ListPlacementsResponse{}) }, "{\n  \"placements\": []\n}\n"},
		{"zeros", func(a *app) error { return a.printJSON(&shoalv1.HostPrepull{Server: "a"}) }, "{\n  \"server\": \"a\",\n  \"bytes_done\": \"0\",\n  \"bytes_total\": \"0\",\n  \"state\": \"\",\n  \"error\": \"\"\n}\n"},
	} {
		var out strings.Builder
		if err := c.say(&app{out: &out}); err != nil || out.String() != c.want {
			t.Errorf("%s: %q, %v, want %q", c.name, out.String(), err, c.want)
		}
	}
}
