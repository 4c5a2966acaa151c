package inventory

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func shown(list []entry) string {
	var b strings.Builder
	for _, e := range list {
		fmt.Fprintf(&b, "%s %s %s %s %s;", e.name, e.address, e.user, e.hostKey, e.hardwareClass)
	}
	return b.String()
}

func TestReadList(t *testing.T) {
	for name, c := range map[string]struct {
		format, content string
		want            string
		problems        []string // parts of them, in order
	}{
		"csv": {FormatCSV, "\ufeffName, address ,user,host_key,hardware_class\n# the old rack\nold1,10.0.0.1,root,SHA256:abc,12c-16g\n\nnew1,10.0.0.2:2222,,,32c-32g\n", "old1 10.0.0.1 root SHA256:abc 12c-16g;new1 10.0.0.2:2222   32c-32g;", nil},
		"csv, other order": {FormatCSV, "address,owner,name\n10.0.0.1,ann,a\n10.0.0.2\n10.0.0.3,x,c,more\n", "a 10.0.0.1   ;",
			[]string{`line 1: the column "owner" is not read`, "line 3: the name", "line 4: 4 fields under 3 columns"}},
		"csv, bad rows": {FormatCSV, "name,address\na,10.0.0.1\na,10.0.0.2\nb,\n../c,10.0.0.3\nd,-oProxyCommand=x\ne,\"10.0.0.4\nf\"\n\"g,10.0.0.5", "a 10.0.0.1   ;",
			[]string{"line 3: a second a", "line 4: b has no address", "line 5: the name", "line 6: the address", "line 7: the address", "line 9"}},
		"ssh": {FormatSSH, "# all\nHost *\n  User ops\n\nHost web1 web2\n  HostName=%h.example.com\n\tport 2222\nHost web2\n  User other\nHost db1 !db2 db*\n  HostName \"10.0.0.9\" # the old one\n", "web1 web1.example.com:2222 ops  ;web2 web2.example.com:2222 ops  ;db1 10.0.0.9 ops  ;",
			[]string{"line 8: a second web2"}},
		"ssh, first one counts": {FormatSSH, "Host a\n User one\nHost *\n User two\n Port 22\n", "a a:22 one  ;", nil},
		"ssh, global":           {FormatSSH, "User all\nHost a\nHost b\n", "a a all  ;b b all  ;", nil},
		"ssh, not read": {FormatSSH, "Include /etc/passwd\nHost a\n ProxyJump b\n Port\nMatch host x\n User evil\nHost c\n Port 70000\n", "a a   ;",
			[]string{"line 1: Include is not read", "line 3: ProxyJump is not read", `line 4: "Port" has no value`, "line 5: Match is not read", `line 7: c has the port "70000"`}},
		"ssh, no": {FormatSSH, "Host x*\n User u\nHost x1 !x2\nHost x2\n User v\nHost *2 !*2\n User w\n", "x1 x1 u  ;x2 x2 u  ;", nil},
	} {
		got, wrong, err := readList(c.format, c.content)
		var problems []string
		if err == nil {
			problems = wrong.lines()
		}
		if err != nil || shown(got) != c.want || len(problems) != len(c.problems) {
			t.Errorf("%s: %s\n%q, %v", name, shown(got), problems, err)
			continue
		}
		for n, part := range c.problems {
			if !strings.HasPrefix(problems[n], part) {
				t.Errorf("%s: %q, want %q", name, problems[n], part)
			}
		}
	}
	for name, c := range map[string][2]string{
		"a format that is none": {"yaml", "x"}, "no row": {FormatCSV, ""}, "no name": {FormatCSV, "address\n"}, "no text": {FormatCSV, "name,address\n\xff"},
		"too long": {FormatSSH, strings.Repeat("#", maxContent+1)},
	} {
		if _, _, err := readList(c[0], c[1]); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A list is bounded in what it makes the supernode do.
func TestReadListIsBounded(t *testing.T) {
	var rows, hosts strings.Builder
	rows.WriteString("name,address\n")
	for n := range maxEntries + 500 {
		fmt.Fprintf(&rows, "h%d,10.0.0.1\n", n)
		fmt.Fprintf(&hosts, "Host h%d\n", n)
	}
	for format, content := range map[string]string{FormatCSV: rows.String(), FormatSSH: hosts.String()} {
		if got, wrong, err := readList(format, content); err != nil || len(got) != maxEntries || len(wrong.list) != 1 {
			t.Errorf("%s: %d machines, %v, %v", format, len(got), wrong, err)
		}
	}
	for name, content := range map[string]string{
		"patterns": "Host a\n" + strings.Repeat("Host b*\n User u\n", maxWild+1), "a long pattern": "Host a\nHost " + strings.Repeat("b*", maxPattern) + "\n",
		"names": "Host a\nHost" + strings.Repeat(" b", maxPatterns) + "\n",
	} {
		got, wrong, err := readList(FormatSSH, content)
		if err != nil || len(got) != 1 || len(wrong.list) != 1 || !strings.Contains(wrong.list[0].why, "the list ends here") {
			t.Errorf("%s: %d machines, %v, %v", name, len(got), wrong, err)
		}
	}
	if _, wrong, err := readList(FormatCSV, "name,address\n"+strings.Repeat("x y,1\n", 500)); err != nil || len(wrong.lines()) != maxProblems+1 {
		t.Errorf("%v, %v", wrong, err)
	}
}

// checkList looks whether whatever was read can be kept.
func checkList(t *testing.T, format, content string) {
	got, wrong, err := readList(format, content)
	if err != nil {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%v", err)
		}
		return
	}
	if len(got) > maxEntries || len(wrong.lines()) > maxProblems+1 {
		t.Errorf("%d machines, %d problems", len(got), len(wrong.list))
	}
	seen := map[string]bool{}
	for _, e := range got {
		if seen[e.name] || !hostName(e.name) || e.address == "" || checkReach(e.address, e.user, e.hostKey) != nil || strings.ContainsAny(e.address+e.user, " \n\x00") {
			t.Errorf("%+v was taken", e)
		}
		seen[e.name] = true
	}
}

func FuzzReadCSV(f *testing.F) {
	for _, seed := range []string{"name,address\na,10.0.0.1\n", "address,name,user,host_key\n\"1\",b,u,\"ssh-ed25519 AAAA\"\n", "name,address\n\"a\n\",\"", "#x\nname,address\n\r\n,"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) { checkList(t, FormatCSV, content) })
}

func FuzzReadSSH(f *testing.F) {
	for _, seed := range []string{"Host a\n HostName=1.2.3.4\n Port 22\n", "Host * !b\nUser \"x y\nHost b c\n", "Match all\nHost =d\nInclude x\n", "Host a*b?c\nHost aXbYc\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) { checkList(t, FormatSSH, content) })
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "", true}, {"a*", "a", true}, {"a*", "ba", false}, {"*a*b", "xaab", true}, {"*a*b", "xaabc", false}, {"?", "a", true}, {"?", "", false}, {"a", "a", true}, {"a", "ab", false}, {"**", "x", true},
	} {
		if got := matches(c.pattern, c.s); got != c.want {
			t.Errorf("%s against %q: %v", c.pattern, c.s, got)
		}
	}
}
