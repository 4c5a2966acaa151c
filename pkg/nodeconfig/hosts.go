package nodeconfig

import (
	"fmt"
	"path"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// marker is the first line of each file that is all ours.
const marker = "# Written by dfagent setup; dfagent setup --undo takes it away.\n"

func (p *Plan) hostLines() string {
	return fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = %q\n",
		p.opts.Mirror, p.opts.DialTimeout.String())
}

// hosts plans the hosts.toml that stands for every registry which has none of
// its own. There is no "server" in it: each registry stays its own origin.
func (p *Plan) hosts(dir string) error {
	file := path.Join(dir, "_default", "hosts.toml")
	before, err := read(p.opts.Root, file)
	if err != nil {
		return err
	}
	after := marker + p.hostLines()
	switch {
	case before == nil, strings.HasPrefix(string(before), marker):
		p.want(file, before, []byte(after))
	case namesHost(before, p.opts.Mirror):
		p.note("%s names the mirror already", file)
	default:
		return fmt.Errorf("%w: %s was written by somebody else. Add these lines to it, above other hosts:\n%s",
			ErrForeign, file, p.hostLines())
	}
	for _, name := range entries(p.opts.Root, dir) {
		if name != "_default" {
			p.note("%s has settings of its own in %s: its images do not come through the mirror", name, path.Join(dir, name))
		}
	}
	return nil
}

func namesHost(raw []byte, url string) bool {
	var f struct {
		Host map[string]any `toml:"host"`
	}
	return toml.Unmarshal(raw, &f) == nil && f.Host[url] != nil
}
