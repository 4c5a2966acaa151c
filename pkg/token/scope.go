package token

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	maxScope   = 4 << 10 // bytes of all scopes of a request together
	maxAccess  = 32      // resources of a request or a token
	maxActions = 8       // actions on one resource
	maxAction  = 32      // bytes of an action
	maxType    = 64      // bytes of a resource type
	maxName    = 512     // bytes of a resource name
)

// ErrBadScope is what ParseScope wraps.
var ErrBadScope = errors.New("bad scope")

// Access is a right, asked for or granted: actions on one resource. Its JSON
// form is the access claim's.
type Access struct {
	Type    string   `json:"type"` // "repository" or "registry"
	Name    string   `json:"name"`
	Actions []string `json:"actions"` // "pull", "push", "delete", "*"
}

// String is the scope's text form.
func (a Access) String() string {
	return a.Type + ":" + a.Name + ":" + strings.Join(a.Actions, ",")
}

// Allows reports whether action is among a's.
func (a Access) Allows(action string) bool {
	return slices.Contains(a.Actions, action) || slices.Contains(a.Actions, "*")
}

// ParseScope reads scopes, "type:name:action,action", apart by spaces; a name
// may hold colons, as in host:port/repository. Resources that are named twice
// become one. No scope at all is an empty list.
func ParseScope(s string) ([]Access, error) { return ParseScopes([]string{s}) }

// ParseScopes reads the values of a repeated scope parameter.
func ParseScopes(values []string) ([]Access, error) {
	size := 0
	for _, v := range values {
		if size += len(v); size > maxScope {
			return nil, fmt.Errorf("%w: more than %d bytes", ErrBadScope, maxScope)
		}
	}
	var out []Access
	for _, v := range values {
		for text := range strings.SplitSeq(v, " ") {
			if text == "" {
				continue
			}
			a, err := parseOne(text)
			if err != nil {
				return nil, err
			}
			if out, err = addAccess(out, a); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func addAccess(list []Access, a Access) ([]Access, error) {
	at := slices.IndexFunc(list, func(b Access) bool { return a.Type == b.Type && a.Name == b.Name })
	if at < 0 {
		if len(list) == maxAccess {
			return nil, fmt.Errorf("%w: more than %d resources", ErrBadScope, maxAccess)
		}
		return append(list, a), nil
	}
	for _, action := range a.Actions {
		if !slices.Contains(list[at].Actions, action) {
			list[at].Actions = append(list[at].Actions, action)
		}
	}
	if len(list[at].Actions) > maxActions {
		return nil, fmt.Errorf("%w: more than %d actions on %q", ErrBadScope, maxActions, a.Name)
	}
	return list, nil
}

func parseOne(text string) (Access, error) {
	first, last := strings.IndexByte(text, ':'), strings.LastIndexByte(text, ':')
	if first < 0 || first == last {
		return Access{}, fmt.Errorf("%w %.80q: want type:name:actions", ErrBadScope, text)
	}
	a := Access{Type: text[:first], Name: text[first+1 : last]}
	for action := range strings.SplitSeq(text[last+1:], ",") {
		if action != "" && !slices.Contains(a.Actions, action) {
			a.Actions = append(a.Actions, action)
		}
	}
	if err := a.check(); err != nil {
		return Access{}, err
	}
	return a, nil
}

func (a Access) check() error {
	if a.Type == "" || len(a.Type) > maxType || strings.ContainsFunc(a.Type, func(c rune) bool { return !lower(c) && c != '(' && c != ')' }) {
		return fmt.Errorf("%w: type %.80q", ErrBadScope, a.Type)
	}
	if a.Name == "" || len(a.Name) > maxName || strings.ContainsFunc(a.Name, func(c rune) bool { return !inName(c) }) {
		return fmt.Errorf("%w: name %.80q", ErrBadScope, a.Name)
	}
	for part := range strings.SplitSeq(a.Name, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("%w: name %.80q", ErrBadScope, a.Name)
		}
	}
	if len(a.Actions) > maxActions {
		return fmt.Errorf("%w: more than %d actions on %q", ErrBadScope, maxActions, a.Name)
	}
	for _, action := range a.Actions {
		if action != "*" && (action == "" || len(action) > maxAction || strings.ContainsFunc(action, func(c rune) bool { return !lower(c) })) {
			return fmt.Errorf("%w: action %.80q", ErrBadScope, action)
		}
	}
	return nil
}

func lower(c rune) bool { return c >= 'a' && c <= 'z' }

// inName takes what repositories, hosts and ports are written with. Capitals
// are let through so that the registry can refuse them in its own words.
func inName(c rune) bool {
	return lower(c) || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-/:", c)
}
