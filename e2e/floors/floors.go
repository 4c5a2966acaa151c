// Package floors holds the plan of the house as a table, and the rules by
// which an import may cross it. Its test reads the real import graph with
// `go list`, so an arrow that points upwards fails `make test` and not a
// review a year later.
package floors

import (
	"fmt"
	"slices"
	"strings"
)

// Module is the import path of everything that is ours.
const Module = "github.com/shoalproject/shoal"

// Package is what `go list -json` says of one package, as far as it matters.
type Package struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
}

// floor ranks the rooms: an import may go from a higher rank to a lower one
// and never between two rooms of one rank. The tens are the floors of
// docs/design.md; the ones order rooms inside a floor.
var floor = map[string]int{
	"pkg/blob":     10,
	"pkg/durable":  11,
	"proto":        11,
	"pkg/engine":   12, // its words; what speaks them stands a floor higher
	"pkg/identity": 12,
	"pkg/token":    12,
	"pkg/settings": 12,

	"pkg/store":             20,
	"pkg/swarm":             20,
	"pkg/discovery/tracker": 20,
	"pkg/discovery/dht":     20,
	"pkg/upstream":          20,
	"pkg/runtime":           20,
	"pkg/nodeconfig":        20,
	"pkg/control":           20,
	"pkg/gateway":           20,
	"pkg/records":           20,
	"pkg/listen":            20,
	"pkg/telemetry":         20,
	"pkg/engine/containerd": 20,
	"pkg/engine/docker":     20,
	"pkg/engine/memory":     20,
	"pkg/engine/enginetest": 20,
	"pkg/facts":             20,
	"pkg/profile":           20,
	"supernode/meta":        20,
	"supernode/objects":     20,
	"supernode/retention":   20,

	"pkg/fetch":     30,
	"pkg/mirror":    31,
	"pkg/supervise": 31,

	"supernode/registry":  40,
	"supernode/auth":      40,
	"supernode/audit":     40,
	"supernode/tracker":   40,
	"supernode/seed":      40,
	"supernode/fleet":     40,
	"supernode/inventory": 40,
	"supernode/provision": 40,
	"supernode/placement": 40,
	"supernode/cost":      40,
	"supernode/console":   40,
	"dfget":               40,
	"supernode/api":       45,

	"cmd": 50,

	"e2e":     60,
	"scripts": 60,
}

// keptOut names what a binary must not link: the prefix of an import path
// and why.
var keptOut = map[string][]string{
	"cmd/dfagent": {"k8s.io/", "sigs.k8s.io/", "github.com/aws/", "github.com/gophercloud/"},
	"cmd/dfget":   {"k8s.io/", "sigs.k8s.io/", "github.com/aws/", "github.com/gophercloud/"},
}

// Check returns every broken rule in the graph, in order; none is good.
func Check(graph []Package) []string {
	var broken []string
	for _, p := range graph {
		from, ours := inside(p.ImportPath)
		if !ours {
			continue
		}
		if _, known := roomOf(from); !known {
			broken = append(broken, fmt.Sprintf("%s stands on no floor: give it a place in e2e/floors and in docs/design.md", from))
			continue
		}
		for _, imp := range p.Imports {
			broken = append(broken, arrow(from, imp)...)
		}
		for _, imp := range slices.Concat(p.TestImports, p.XTestImports) {
			broken = append(broken, testArrow(from, imp)...)
		}
		for _, dep := range p.Deps {
			for _, prefix := range keptOut[from] {
				if strings.HasPrefix(dep, prefix) {
					broken = append(broken, fmt.Sprintf("%s links %s, which must stay out of it", from, dep))
				}
			}
		}
	}
	slices.Sort(broken)
	return slices.Compact(broken)
}

// arrow checks one import of code that is shipped.
func arrow(from, imp string) []string {
	to, ours := inside(imp)
	if !ours {
		return nil
	}
	a, _ := roomOf(from)
	b, known := roomOf(to)
	switch {
	case !known:
		return []string{fmt.Sprintf("%s imports %s, which stands on no floor", from, to)}
	case a == b:
		return nil
	case strings.HasPrefix(from, "pkg/") && strings.HasPrefix(to, "supernode/"),
		a == "dfget" && strings.HasPrefix(to, "supernode/"):
		return []string{fmt.Sprintf("%s imports %s: only the supernode's own rooms may", from, to)}
	case floor[a] <= floor[b]:
		return []string{fmt.Sprintf("%s (%d) imports %s (%d): imports go downwards only", from, floor[a], to, floor[b])}
	case floor[a]/10 == 3 && floor[b]/10 == 2:
		return []string{fmt.Sprintf("%s imports %s: this room declares the interface it needs, cmd wires it", from, to)}
	}
	return nil
}

// testArrow checks one import of a test. A test may bring rooms of its own
// floor or below together; it may not pull a floor above it in.
func testArrow(from, imp string) []string {
	to, ours := inside(imp)
	if !ours {
		return nil
	}
	a, _ := roomOf(from)
	b, known := roomOf(to)
	switch {
	case a == b:
		return nil
	case !known:
		return []string{fmt.Sprintf("a test of %s imports %s, which stands on no floor", from, to)}
	case strings.HasPrefix(from, "pkg/") && strings.HasPrefix(to, "supernode/"):
		return []string{fmt.Sprintf("a test of %s imports %s: pkg/ knows nothing of supernode/", from, to)}
	case floor[a]/10 < floor[b]/10:
		return []string{fmt.Sprintf("a test of %s imports %s, a floor above it", from, to)}
	}
	return nil
}

// inside cuts the module's path off.
func inside(importPath string) (string, bool) {
	if importPath == Module {
		return "", true
	}
	return strings.CutPrefix(importPath, Module+"/")
}

// roomOf is the longest room that the package lies in.
func roomOf(path string) (string, bool) {
	for room := path; room != ""; {
		if _, known := floor[room]; known {
			return room, true
		}
		cut := strings.LastIndexByte(room, '/')
		if cut < 0 {
			return "", false
		}
		room = room[:cut]
	}
	return "", false
}
