package differential

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// home stands in a target for the first path element of the repositories of
// one play, which is another in each.
const home = "{home}"

// kind is what a request is about; the table of intended differences goes by it.
type kind string

const (
	ping         kind = "ping"
	begin        kind = "begin an upload"
	mount        kind = "mount"
	patch        kind = "send a chunk"
	finish       kind = "finish an upload"
	status       kind = "ask for an upload"
	cancel       kind = "cancel an upload"
	readBlob     kind = "read a blob"
	deleteBlob   kind = "delete a blob"
	readManifest kind = "read a manifest"
	putManifest  kind = "push a manifest"
	dropManifest kind = "delete a manifest"
	listTags     kind = "list tags"
	catalogue    kind = "list repositories"
	referrers    kind = "list referrers"
	stray        kind = "no route"
)

// modifies tells the kinds after which the two may hold different things.
func (k kind) modifies() bool {
	return slices.Contains([]kind{begin, mount, patch, finish, cancel, deleteBlob, putManifest, dropManifest}, k)
}

// request is one request of a play, the same for both sides but for what they
// choose themselves: where an upload lies.
type request struct {
	kind   kind
	flaw   string // what is odd about it; "" when nothing is
	method string
	target string // path and query, or only the query when upload is set
	upload int    // goes to where this upload lies; 0: none
	begins int    // a Location in the answer is that of this upload
	header map[string]string
	body   []byte
	stream bool // sent without a length
}

func (r request) String() string {
	target := r.target
	if r.upload > 0 {
		target = fmt.Sprintf("{upload %d}%s", r.upload, target)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s", r.method, target)
	for _, key := range slices.Sorted(maps.Keys(r.header)) {
		fmt.Fprintf(&text, " [%s: %s]", key, r.header[key])
	}
	if r.body != nil {
		fmt.Fprintf(&text, " %d bytes: %.300q", len(r.body), r.body)
	}
	if r.stream {
		text.WriteString(" without a length")
	}
	fmt.Fprintf(&text, "  (%s", r.kind)
	if r.flaw != "" {
		fmt.Fprintf(&text, ", %s", r.flaw)
	}
	return text.String() + ")"
}
