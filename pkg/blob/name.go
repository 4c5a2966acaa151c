package blob

import (
	"errors"
	"fmt"
	"strings"
)

const (
	maxRepository = 255
	maxTag        = 128
)

// ErrInvalidName is what CheckRepository and CheckTag wrap.
var ErrInvalidName = errors.New("invalid name")

// CheckRepository reports whether s is a repository name by the grammar of
// the OCI distribution-spec 1.1, at most 255 bytes long. Such a name can
// stand in a URL path without a second look.
func CheckRepository(s string) error {
	if s == "" || len(s) > maxRepository {
		return fmt.Errorf("%w: a repository name has 1 to %d characters, got %d", ErrInvalidName, maxRepository, len(s))
	}
	for component := range strings.SplitSeq(s, "/") {
		if !validComponent(component) {
			return fmt.Errorf("%w: repository %q: each part between slashes is a-z and 0-9, separated by single '.', one or two '_' or any '-'",
				ErrInvalidName, clip(s))
		}
	}
	return nil
}

// validComponent is [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*.
func validComponent(s string) bool {
	for {
		n := 0
		for n < len(s) && alphanumeric(s[n]) {
			n++
		}
		if n == 0 {
			return false
		}
		if s = s[n:]; s == "" {
			return true
		}
		rest := strings.TrimLeft(s, s[:1])
		run := len(s) - len(rest)
		switch {
		case s[0] == '.' && run == 1, s[0] == '_' && run <= 2, s[0] == '-':
			s = rest
		default:
			return false
		}
	}
}

func alphanumeric(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// CheckTag reports whether s is a tag: [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127} (OCI
// distribution-spec 1.1), but not the 64 or 128 hexadecimal digits of a
// digest, since people would take such a tag for the name of the content.
func CheckTag(s string) error {
	if s == "" || len(s) > maxTag {
		return fmt.Errorf("%w: a tag has 1 to %d characters, got %d", ErrInvalidName, maxTag, len(s))
	}
	for i, c := range []byte(s) {
		word := alphanumeric(c) || c >= 'A' && c <= 'Z' || c == '_'
		if !word && (i == 0 || c != '.' && c != '-') {
			return fmt.Errorf("%w: tag %q: letters, digits, '_', and after the first also '.' and '-'", ErrInvalidName, clip(s))
		}
	}
	if hexDigest(s) {
		return fmt.Errorf("%w: tag %q looks like a digest; choose another tag, or write sha256:HEX or sha512:HEX for the digest",
			ErrInvalidName, clip(s))
	}
	return nil
}

// hexDigest reports whether s is as long as the hexadecimal digits of a
// SHA-256 or SHA-512, and made of nothing else.
func hexDigest(s string) bool {
	return (len(s) == 64 || len(s) == 128) && strings.Trim(s, "0123456789abcdef") == ""
}
