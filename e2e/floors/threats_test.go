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

// TestThreatsPageTablesAreWhole finds a row that an empty line cuts off from
// its table: it would be shown as text.
func TestThreatsPageTablesAreWhole(t *testing.T) {
	page, err := os.ReadFile("../../docs/threats.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(page), "\n")
	for i, line := range lines {
		begins := strings.HasPrefix(line, "|") && (i == 0 || !strings.HasPrefix(lines[i-1], "|"))
		if begins && (i+1 == len(lines) || !strings.HasPrefix(lines[i+1], "|---")) {
			t.Errorf("docs/threats.md:%d: a row without the head of its table", i+1)
		}
	}
}

// TestScriptsNameNoPackageHost keeps the choice of a mirror with the machine.
func TestScriptsNameNoPackageHost(t *testing.T) {
	files, err := filepath.Glob("../../scripts/*")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d scripts: %v", len(files), err)
	}
	host := regexp.MustCompile(`https?://[a-z0-9.-]*(debian|golang|npmjs)\.`)
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue // a folder
		}
		if found := host.Find(raw); found != nil {
			t.Errorf("%s names a package host: %s", f, found)
		}
	}
}
