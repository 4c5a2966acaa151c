package upstream

import (
	"fmt"
	"net/http"
	"strings"
)

const (
	maxChallenge = 8 << 10 // bytes of one WWW-Authenticate header
	maxParams    = 32
)

// challenge is what a registry asks for with a 401.
type challenge struct {
	scheme  string // "bearer" or "basic"
	realm   string
	service string
	scope   string
}

// chooseChallenge takes Bearer over Basic among everything that was offered.
func chooseChallenge(h http.Header) (*challenge, error) {
	var basic *challenge
	for _, line := range h.Values("WWW-Authenticate") {
		for _, c := range parseChallenges(line) {
			switch {
			case c.scheme == "bearer" && c.realm != "":
				return &c, nil
			case c.scheme == "basic" && basic == nil:
				basic = &c
			}
		}
	}
	if basic != nil {
		return basic, nil
	}
	return nil, fmt.Errorf("%w: a 401 without a Bearer or Basic challenge", ErrMalformed)
}

// parseChallenges reads one WWW-Authenticate header (RFC 9110, 11.6.1),
// which may hold several challenges. What it cannot read it leaves out.
func parseChallenges(line string) []challenge {
	if len(line) > maxChallenge {
		return nil
	}
	var out []challenge
	for params := 0; params < maxParams; {
		line = strings.TrimLeft(line, ", \t")
		word, rest := takeToken(line)
		if word == "" {
			return out
		}
		after := strings.TrimLeft(rest, " \t")
		if !strings.HasPrefix(after, "=") { // a scheme, not a parameter
			out = append(out, challenge{scheme: strings.ToLower(word)})
			line = rest
			continue
		}
		value, rest, ok := takeValue(strings.TrimLeft(after[1:], " \t"))
		if !ok {
			return out
		}
		line = rest
		params++
		if len(out) > 0 {
			out[len(out)-1].set(strings.ToLower(word), value)
		}
	}
	return out
}

func (c *challenge) set(key, value string) {
	switch key {
	case "realm":
		c.realm = value
	case "service":
		c.service = value
	case "scope":
		c.scope = value
	}
}

func takeToken(s string) (token, rest string) {
	n := 0
	for n < len(s) && tokenByte(s[n]) {
		n++
	}
	return s[:n], s[n:]
}

// tokenByte is tchar of RFC 9110, 5.6.2.
func tokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// takeValue reads a token or a quoted string.
func takeValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		// Some registries leave the quotes of a URL out: read to the separator.
		n := strings.IndexAny(s, ", \t")
		if n < 0 {
			n = len(s)
		}
		return s[:n], s[n:], n > 0
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			i++
			if i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}
