package inventory

import (
	"net"
	"strconv"
	"strings"
)

// block is what stands under one Host line of an ssh_config(5) file.
type block struct {
	line     int
	patterns []string
	values   map[string]string
}

const (
	// maxPatterns bounds the names and patterns of all Host lines together, and
	// maxWild those with a * or a ?, which are compared with every host.
	maxPatterns = 4 * maxEntries
	maxWild     = 64
	maxPattern  = 64 // bytes of one with a * or a ?
)

// readSSH reads the hosts that an ssh_config names one by one. As ssh does, it
// takes for each setting the first value of a block that fits, so that what
// stands under "Host *" fills in. It reads no other file: an Include could name
// any file of the supernode's machine.
func readSSH(content string, wrong *problems) (out []entry) {
	blocks := readBlocks(content, wrong)
	for _, b := range blocks {
		for _, name := range b.patterns {
			if wild(name) || strings.HasPrefix(name, "!") {
				continue
			}
			e := entry{line: b.line, name: name, address: name}
			values := valuesFor(blocks, name)
			if host := values["hostname"]; host != "" {
				e.address = strings.ReplaceAll(host, "%h", name)
			}
			if port := values["port"]; port != "" {
				if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
					wrong.add(b.line, "%.70s has the port %.20q", name, port)
					continue
				}
				e.address = net.JoinHostPort(e.address, port)
			}
			e.user = values["user"]
			if out = append(out, e); len(out) > maxEntries {
				return out
			}
		}
	}
	return out
}

func wild(pattern string) bool { return strings.ContainsAny(pattern, "*?") }

func readBlocks(content string, wrong *problems) []block {
	blocks := []block{{line: 1, patterns: []string{"*"}, values: map[string]string{}}}
	skipping, patterns, wilds := false, 0, 0 // skipping what stands below a Match
	for n, text := range strings.Split(content, "\n") {
		words := sshWords(text)
		if len(words) == 0 {
			continue
		}
		at := &blocks[len(blocks)-1]
		switch keyword := strings.ToLower(words[0]); {
		case len(words) < 2:
			wrong.add(n+1, "%.40q has no value", words[0])
		case keyword == "host":
			skipping = false
			patterns += len(words) - 1
			for _, p := range words[1:] {
				if wild(p) {
					wilds++
				}
				if wild(p) && len(p) > maxPattern || wilds > maxWild || patterns > maxPatterns {
					wrong.add(n+1, "the list ends here: more than %d patterns, or one of more than %d bytes, or more than %d names", maxWild, maxPattern, maxPatterns)
					return blocks
				}
			}
			blocks = append(blocks, block{line: n + 1, patterns: words[1:], values: map[string]string{}})
		case keyword == "match":
			skipping = true
			wrong.add(n+1, "Match is not read, nor what stands under it")
		case skipping:
		case keyword == "include", keyword == "proxyjump", keyword == "proxycommand":
			wrong.add(n+1, "%s is not read", words[0])
		case keyword == "hostname", keyword == "port", keyword == "user":
			if _, first := at.values[keyword]; !first {
				at.values[keyword] = words[1]
			}
		}
	}
	return blocks
}

// sshWords takes a line apart: words are parted by spaces or one =, and may
// stand in double quotes. A comment is nothing.
func sshWords(line string) (words []string) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return nil
	}
	end := strings.IndexAny(line, " \t=")
	if end < 0 {
		return []string{line}
	}
	words, line = append(words, line[:end]), strings.TrimLeft(line[end:], " \t")
	line = strings.TrimLeft(strings.TrimPrefix(line, "="), " \t")
	for line != "" {
		if strings.HasPrefix(line, `"`) {
			word, rest, _ := strings.Cut(line[1:], `"`)
			words, line = append(words, word), strings.TrimLeft(rest, " \t")
			continue
		}
		if line[0] == '#' {
			break
		}
		end := strings.IndexAny(line, " \t")
		if end < 0 {
			end = len(line)
		}
		words, line = append(words, line[:end]), strings.TrimLeft(line[end:], " \t")
	}
	return words
}

// valuesFor are the first values of each setting in the blocks that name a
// host.
func valuesFor(blocks []block, host string) map[string]string {
	out := map[string]string{}
	for _, b := range blocks {
		if len(b.values) == 0 || !names(b.patterns, host) {
			continue
		}
		for keyword, value := range b.values {
			if _, first := out[keyword]; !first {
				out[keyword] = value
			}
		}
	}
	return out
}

// names reports whether a list of patterns names a host: one does, and none
// that begins with ! does.
func names(patterns []string, host string) bool {
	named := false
	for _, p := range patterns {
		not := strings.HasPrefix(p, "!")
		if matches(strings.TrimPrefix(p, "!"), host) {
			if not {
				return false
			}
			named = true
		}
	}
	return named
}

// matches compares with a pattern of * and ?, in at most len(pattern) ×
// len(s) steps.
func matches(pattern, s string) bool {
	star, mark, p, n := -1, 0, 0, 0
	for n < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[n]):
			p, n = p+1, n+1
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
