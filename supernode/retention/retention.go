// Package retention decides which tags of a repository a project's rules let
// go. It stands apart from the gate, which keeps the rules, and from the
// registry, which keeps the tags, so that one function answers for both a dry
// run and the removal itself: Decide has no clock and does no I/O.
//
// When in doubt a tag stays. Rules only ever keep: a tag goes when its
// repository has rules and none of them keeps it.
package retention

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	// MaxRules bounds the rules of a project, maxKeep the patterns of a rule.
	MaxRules = 50
	maxKeep  = 50
	// maxPattern bounds a pattern, in bytes.
	maxPattern = 128
	// maxCount bounds KeepLast and KeepDays.
	maxCount = 100_000

	day = 24 * time.Hour
)

// ErrInvalid is wrapped when a rule cannot be taken.
var ErrInvalid = errors.New("not valid")

// Rule says what stays in the repositories that it is about.
type Rule struct {
	// Repositories is a pattern, as of path.Match but with a * that goes over
	// slashes too, of repositories' names below the project. Empty: all.
	Repositories string `json:"repositories,omitempty"`
	// KeepLast keeps the tags that were set last, so many of them, beside those
	// that a pattern keeps; 0 keeps none by that.
	KeepLast int `json:"keep_last,omitempty"`
	// KeepDays keeps what was set or pulled within so many days; 0 keeps none by
	// that.
	KeepDays int `json:"keep_days,omitempty"`
	// Keep are patterns, as of path.Match, of tags that stay for ever.
	Keep []string `json:"keep,omitempty"`
}

// Check refuses what is no pattern, and a rule that would keep next to
// nothing: that is what deleting is for.
func (r Rule) Check() error {
	if err := pattern(r.Repositories); err != nil && r.Repositories != "" {
		return err
	}
	if r.KeepLast < 0 || r.KeepDays < 0 || r.KeepLast > maxCount || r.KeepDays > maxCount {
		return fmt.Errorf("a rule that keeps %d tags or %d days is %w: give numbers up to %d", r.KeepLast, r.KeepDays, ErrInvalid, maxCount)
	}
	if r.KeepLast == 0 && r.KeepDays == 0 {
		return fmt.Errorf("a rule that keeps neither the last tags nor the last days is %w: say how many of either", ErrInvalid)
	}
	if len(r.Keep) > maxKeep {
		return fmt.Errorf("%d patterns of tags that stay are %w: give at most %d", len(r.Keep), ErrInvalid, maxKeep)
	}
	for _, p := range r.Keep {
		if err := pattern(p); err != nil {
			return err
		}
	}
	return nil
}

func pattern(p string) error {
	if _, err := path.Match(p, "x"); err != nil || p == "" || len(p) > maxPattern {
		return fmt.Errorf("the pattern %.150q is %w: use * ? [a-z] as in v*, at most %d bytes", p, ErrInvalid, maxPattern)
	}
	return nil
}

// about reports whether the rule is about a repository, by its name below the
// project.
func (r Rule) about(repository string) bool {
	if r.Repositories == "" {
		return true
	}
	// No name holds a colon, and to path.Match it is a letter like any other.
	match, err := path.Match(strings.ReplaceAll(r.Repositories, "/", ":"), strings.ReplaceAll(repository, "/", ":"))
	return match || err != nil
}

// keeps names the first of the rule's patterns that a tag matches.
func (r Rule) keeps(tag string) (pattern string, ok bool) {
	for _, p := range r.Keep {
		if match, err := path.Match(p, tag); match || err != nil {
			return p, true
		}
	}
	return "", false
}

// Tag is what a decision rests on.
type Tag struct {
	Name   string
	Digest blob.Digest
	Set    time.Time // when it was made to name this digest
	Pulled time.Time // when the digest was last pulled; zero: not that we know
	// Immutable tags can be neither moved nor deleted.
	Immutable bool
	// Follows is the digest that the tag's name refers to, as those of
	// signatures do, where the repository holds that manifest; else empty.
	Follows blob.Digest
}

// used is when the tag was set or pulled last.
func (t Tag) used() time.Time {
	if t.Pulled.After(t.Set) {
		return t.Pulled
	}
	return t.Set
}

// Verdict is what becomes of a tag, and why.
type Verdict struct {
	Tag
	Goes bool
	Why  string
}

// Decide says of every tag of one repository whether it goes, in the order of
// their names. repository is its name below the project.
func Decide(rules []Rule, repository string, tags []Tag, now time.Time) []Verdict {
	tags = slices.Clone(tags)
	slices.SortFunc(tags, func(a, b Tag) int { return cmp.Compare(a.Name, b.Name) })
	out := make([]Verdict, len(tags))
	for i, t := range tags {
		out[i] = Verdict{Tag: t, Goes: true}
	}
	ruled := false
	for _, r := range rules {
		if r.about(repository) {
			ruled = true
			r.apply(out, now)
		}
	}
	for i, v := range out {
		switch {
		case v.Immutable:
			out[i].keep("immutable by the project's settings")
		case !ruled:
			out[i].keep("no rule is about this repository")
		}
	}
	follow(out)
	for i, v := range out {
		if v.Goes && v.Why == "" {
			out[i].Why = "no rule keeps it: " + age(v, now)
		}
	}
	return out
}

func (v *Verdict) keep(why string) {
	if v.Goes {
		v.Goes, v.Why = false, why
	}
}

// apply keeps what one rule keeps.
func (r Rule) apply(tags []Verdict, now time.Time) {
	var rest []int
	for i := range tags {
		v := &tags[i]
		if p, ok := r.keeps(v.Name); ok {
			v.keep("its name matches " + p)
			continue
		}
		if v.Follows == "" {
			rest = append(rest, i)
		}
		if r.KeepDays > 0 && now.Sub(v.used()) < time.Duration(r.KeepDays)*day {
			v.keep(fmt.Sprintf("%s, within %d days", usedHow(v.Tag), r.KeepDays))
		}
	}
	slices.SortStableFunc(rest, func(a, b int) int { return tags[b].Set.Compare(tags[a].Set) })
	for _, i := range rest[:min(len(rest), r.KeepLast)] {
		tags[i].keep(fmt.Sprintf("one of the last %d", r.KeepLast))
	}
}

// follow lets tags that are about another manifest share its fate: a
// signature stays for as long as what it signs.
func follow(tags []Verdict) {
	tagged, stays := map[blob.Digest]bool{}, map[blob.Digest]bool{}
	for _, v := range tags {
		if v.Follows == "" {
			tagged[v.Digest] = true
			stays[v.Digest] = stays[v.Digest] || !v.Goes
		}
	}
	for i := range tags {
		v := &tags[i]
		switch {
		case v.Follows == "":
		case stays[v.Follows]:
			v.keep("it belongs to an image that stays")
		case !tagged[v.Follows]:
			v.keep("it belongs to a manifest without a tag")
		case v.Goes:
			v.Why = "it belongs to an image that goes"
		}
	}
}

func usedHow(t Tag) string {
	if t.Pulled.After(t.Set) {
		return "pulled"
	}
	return "pushed"
}

func age(v Verdict, now time.Time) string {
	return fmt.Sprintf("%s %d days ago", usedHow(v.Tag), now.Sub(v.used())/day)
}
