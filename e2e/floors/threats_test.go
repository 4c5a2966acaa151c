package floors

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestThreatsPageNamesRealTests keeps docs/threats.md true.
func TestThreatsPageNamesRealTests(t *testing.T) {
	page, err := os.ReadFile("../../docs/threats.md")
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, m := range regexp.MustCompile("`([a-z0-9/]+)`((?: Test[A-Za-z0-9]+)+)").FindAllStringSubmatch(string(page), -1) {
		tests := testsIn(t, m[1])
		for _, name := range strings.Fields(m[2]) {
			named++
			if !strings.Contains(tests, "func "+name+"(t *testing.T)") {
				t.Errorf("%s has no %s", m[1], name)
			}
		}
	}
	if named < 50 {
		t.Errorf("the page names %d tests", named)
	}
}

func testsIn(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(raw)
	}
	return all.String()
}
