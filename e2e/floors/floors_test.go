package floors

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

func TestHouse(t *testing.T) {
	for _, broken := range Check(list(t)) {
		t.Error(broken)
	}
}

// list asks the go command for the real graph. -e: a package that somebody
// is just writing must not hide the others.
func list(t *testing.T) []Package {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e",
		"-json=ImportPath,Imports,TestImports,XTestImports,Deps", Module+"/...")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, complaint.String())
	}
	var graph []Package
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p Package
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list's JSON: %v", err)
		}
		graph = append(graph, p)
	}
	if len(graph) < 5 {
		t.Fatalf("go list found %d packages: the check would pass on nothing", len(graph))
	}
	return graph
}

// TestCheckCanFail breaks each rule once in a graph made up for it.
func TestCheckCanFail(t *testing.T) {
	ours := func(paths ...string) []string {
		for i := range paths {
			paths[i] = Module + "/" + paths[i]
		}
		return paths
	}
	for name, c := range map[string]struct {
		p    Package
		want string // part of the complaint; "" for none
	}{
		"down":                    {Package{ImportPath: "pkg/store", Imports: ours("pkg/blob", "pkg/durable")}, ""},
		"own room":                {Package{ImportPath: "supernode/meta/metatest", Imports: ours("supernode/meta")}, ""},
		"cmd knows all":           {Package{ImportPath: "cmd/supernode", Imports: ours("supernode/api", "pkg/mirror")}, ""},
		"up":                      {Package{ImportPath: "pkg/store", Imports: ours("pkg/fetch")}, "downwards"},
		"between leaves":          {Package{ImportPath: "pkg/swarm", Imports: ours("pkg/store")}, "downwards"},
		"words import":            {Package{ImportPath: "pkg/blob", Imports: ours("pkg/durable")}, "downwards"},
		"between rooms":           {Package{ImportPath: "supernode/registry", Imports: ours("supernode/auth")}, "downwards"},
		"pkg to supernode":        {Package{ImportPath: "pkg/fetch", Imports: ours("supernode/meta")}, "only the supernode"},
		"dfget to supernode":      {Package{ImportPath: "dfget", Imports: ours("supernode/meta")}, "only the supernode"},
		"fetch to leaf":           {Package{ImportPath: "pkg/fetch", Imports: ours("pkg/store")}, "declares the interface"},
		"no floor":                {Package{ImportPath: "pkg/utils"}, "no floor"},
		"to no floor":             {Package{ImportPath: "pkg/store", Imports: ours("lib/x")}, "no floor"},
		"test beside":             {Package{ImportPath: "pkg/swarm", XTestImports: ours("pkg/store")}, ""},
		"test up":                 {Package{ImportPath: "pkg/swarm", TestImports: ours("pkg/fetch")}, "floor above"},
		"test of pkg, supernode":  {Package{ImportPath: "pkg/mirror", XTestImports: ours("supernode/meta")}, "knows nothing"},
		"agent with kubernetes":   {Package{ImportPath: "cmd/dfagent", Deps: []string{"k8s.io/client-go/rest"}}, "stay out"},
		"agent with aws":          {Package{ImportPath: "cmd/dfagent", Deps: []string{"github.com/aws/aws-sdk-go-v2/aws"}}, "stay out"},
		"agent with openstack":    {Package{ImportPath: "cmd/dfagent", Deps: []string{"github.com/gophercloud/gophercloud/v2"}}, "stay out"},
		"supernode with aws":      {Package{ImportPath: "cmd/supernode", Deps: []string{"github.com/aws/aws-sdk-go-v2/aws"}}, ""},
		"somebody else's package": {Package{ImportPath: "example.com/x", Imports: ours("cmd/supernode")}, ""},
	} {
		if !strings.HasPrefix(c.p.ImportPath, "example.com/") {
			c.p.ImportPath = Module + "/" + c.p.ImportPath
		}
		got := strings.Join(Check([]Package{c.p}), "\n")
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want a complaint with %q", name, got, c.want)
		}
	}
}
