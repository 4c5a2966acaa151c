package blob

import (
	"regexp"
	"strings"
	"testing"
)

var (
	repositoryGrammar = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagGrammar        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	digestShape       = regexp.MustCompile(`^([0-9a-f]{64}|[0-9a-f]{128})$`)
)

func FuzzNames(f *testing.F) {
	for _, s := range []string{"library/app", "a", "a..b", "a__b", "a___b", "a---b",
		"/a", "a/", "a//b", "../x", "A", "a_", "v1.0", "-x", "", strings.Repeat("a", 300),
		strings.Repeat("a", 64), strings.Repeat("0", 128), strings.Repeat("a", 63), strings.Repeat("A", 64), strings.Repeat("g", 64)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := CheckRepository(s) == nil, len(s) <= 255 && repositoryGrammar.MatchString(s); got != want {
			t.Errorf("CheckRepository(%q) passes: %v, grammar: %v", s, got, want)
		}
		if got, want := CheckTag(s) == nil, tagGrammar.MatchString(s) && !digestShape.MatchString(s); got != want {
			t.Errorf("CheckTag(%q) passes: %v, grammar: %v", s, got, want)
		}
	})
}
