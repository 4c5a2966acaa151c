package retention

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

var now = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

func ago(days int) time.Time { return now.Add(-time.Duration(days) * day) }

// going are the names of the tags that go.
func going(verdicts []Verdict) string {
	var out []string
	for _, v := range verdicts {
		if v.Goes {
			out = append(out, v.Name)
		}
	}
	return strings.Join(out, " ")
}

func TestDecide(t *testing.T) {
	tags := []Tag{
		{Name: "b1", Digest: "d1", Set: ago(50)},
		{Name: "b2", Digest: "d2", Set: ago(40), Pulled: ago(1)},
		{Name: "b3", Digest: "d3", Set: ago(30), Pulled: ago(20)},
		{Name: "b4", Digest: "d4", Set: ago(2)},
		{Name: "stable", Digest: "d1", Set: ago(50), Immutable: true},
		{Name: "v1", Digest: "d5", Set: ago(90)},
	}
	for _, c := range []struct {
		name  string
		rules []Rule
		repo  string
		want  string
	}{
		{"no rules", nil, "app", ""},
		{"none about this repository", []Rule{{Repositories: "web", KeepLast: 1}}, "app", ""},
		{"the last one", []Rule{{KeepLast: 1}}, "app", "b1 b2 b3 v1"},
		{"the last three", []Rule{{KeepLast: 3}}, "app", "b1 v1"},
		{"more than there are", []Rule{{KeepLast: 100}}, "app", ""},
		{"a pattern counts apart", []Rule{{KeepLast: 3, Keep: []string{"b4"}}}, "app", "v1"},
		{"patterns", []Rule{{KeepLast: 1, Keep: []string{"v*", "b[12]"}}}, "app", "b3"},
		{"set or pulled within days", []Rule{{KeepDays: 10}}, "app", "b1 b3 v1"},
		{"the very day is over", []Rule{{KeepDays: 20}}, "app", "b1 b3 v1"},
		{"within one day more", []Rule{{KeepDays: 21}}, "app", "b1 v1"},
		{"either is enough", []Rule{{KeepLast: 1, KeepDays: 10, Keep: []string{"v?"}}}, "app", "b1 b3"},
		{"two rules keep more than one", []Rule{{KeepDays: 10}, {Repositories: "a*", KeepLast: 3}}, "app", "b1 v1"},
		{"a star goes over slashes", []Rule{{Repositories: "team/*", KeepLast: 1}}, "team/web/app", "b1 b2 b3 v1"},
		{"and stays below its beginning", []Rule{{Repositories: "team/*", KeepLast: 1}}, "teams", ""},
		{"the repository that is the project", []Rule{{Repositories: "*", KeepLast: 1}}, "", "b1 b2 b3 v1"},
		{"a damaged pattern keeps", []Rule{{KeepLast: 1, Keep: []string{"["}}}, "app", ""},
	} {
		got := Decide(c.rules, c.repo, tags, now)
		if going(got) != c.want || len(got) != len(tags) {
			t.Errorf("%s: %q of %d go, want %q", c.name, going(got), len(got), c.want)
		}
		for _, v := range got {
			if v.Why == "" {
				t.Errorf("%s: nothing says why %s goes: %t", c.name, v.Name, v.Goes)
			}
		}
	}
}

// A signature shares the fate of what it signs, whatever its own age.
func TestDecideFollows(t *testing.T) {
	tags := []Tag{
		{Name: "old", Digest: "d1", Set: ago(50)},
		{Name: "old-too", Digest: "d2", Set: ago(50)},
		{Name: "new", Digest: "d2", Set: ago(1)},
		{Name: "sig-of-old", Digest: "s1", Set: ago(0), Follows: "d1"},
		{Name: "sig-of-new", Digest: "s2", Set: ago(60), Follows: "d2"},
		{Name: "sig-of-untagged", Digest: "s3", Set: ago(60), Follows: "d3"},
	}
	if got := going(Decide([]Rule{{KeepLast: 1}}, "app", tags, now)); got != "old old-too sig-of-old" {
		t.Errorf("%q go", got)
	}
	tags[3].Immutable = true
	if got := going(Decide([]Rule{{KeepLast: 1}}, "app", tags, now)); got != "old old-too" {
		t.Errorf("an immutable signature goes: %q", got)
	}
}

func TestCheck(t *testing.T) {
	for _, r := range []Rule{{KeepLast: 1}, {KeepDays: 1}, {Repositories: "a/*", KeepLast: 5, KeepDays: 5, Keep: []string{"v*", "[a-z]?"}}} {
		if err := r.Check(); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
	for _, r := range []Rule{
		{}, {Keep: []string{"v*"}}, {KeepLast: -1}, {KeepLast: 1, KeepDays: -1}, {KeepLast: maxCount + 1},
		{KeepLast: 1, Keep: []string{""}}, {KeepLast: 1, Keep: []string{"["}}, {KeepLast: 1, Repositories: "["},
		{KeepLast: 1, Keep: slices.Repeat([]string{"v"}, maxKeep+1)}, {KeepLast: 1, Repositories: strings.Repeat("x", maxPattern+1)},
	} {
		if err := r.Check(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v passes: %v", r, err)
		}
	}
}

// draw makes some rules and tags at random.
func draw(r *rand.Rand) ([]Rule, []Tag) {
	rules := make([]Rule, r.IntN(4))
	for i := range rules {
		rules[i] = Rule{
			Repositories: []string{"", "app", "a*", "web"}[r.IntN(4)], KeepLast: r.IntN(5), KeepDays: r.IntN(30),
			Keep: [][]string{nil, {"v*"}, {"t1?", "v2"}}[r.IntN(3)],
		}
	}
	tags := make([]Tag, r.IntN(40))
	for i := range tags {
		name := fmt.Sprintf("%s%d", []string{"t", "v"}[r.IntN(2)], i)
		tags[i] = Tag{Name: name, Digest: blob.Digest(fmt.Sprintf("d%d", r.IntN(10))), Set: ago(r.IntN(60) - 1), Immutable: r.IntN(8) == 0}
		if r.IntN(2) == 0 {
			tags[i].Pulled = ago(r.IntN(60))
		}
		if r.IntN(5) == 0 {
			tags[i].Follows = blob.Digest(fmt.Sprintf("d%d", r.IntN(12)))
		}
	}
	return rules, tags
}

// What must hold of every decision, whatever the rules and tags.
func TestDecideProperties(t *testing.T) {
	for seed := range uint64(5000) {
		r := rand.New(rand.NewPCG(seed, 1))
		rules, tags := draw(r)
		got := Decide(rules, "app", tags, now)
		shuffled := slices.Clone(tags)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if again := Decide(rules, "app", shuffled, now); !reflect.DeepEqual(got, again) {
			t.Fatalf("seed %d: another order of the tags is another decision", seed)
		}
		if len(rules) == 0 && going(got) != "" {
			t.Fatalf("seed %d: without rules %s go", seed, going(got))
		}
		var left []Tag
		for _, v := range got {
			if !v.Goes {
				left = append(left, v.Tag)
				continue
			}
			if v.Immutable {
				t.Fatalf("seed %d: the immutable %s goes", seed, v.Name)
			}
			for _, rule := range rules {
				for _, p := range rule.Keep {
					if match, _ := path.Match(p, v.Name); match && rule.about("app") {
						t.Fatalf("seed %d: %s goes, which %s keeps", seed, v.Name, p)
					}
				}
			}
		}
		// Stable: what is left stays, and one rule more lets nothing more go.
		if more := going(Decide(rules, "app", left, now)); more != "" {
			t.Fatalf("seed %d: a second look lets %s go", seed, more)
		}
		if len(rules) == 0 || !slices.ContainsFunc(rules, func(r Rule) bool { return r.about("app") }) {
			continue
		}
		for _, v := range Decide(append(slices.Clone(rules), Rule{KeepLast: 2}), "app", tags, now) {
			if v.Goes && !slices.ContainsFunc(got, func(before Verdict) bool { return before.Name == v.Name && before.Goes }) {
				t.Fatalf("seed %d: one rule more, and %s goes", seed, v.Name)
			}
		}
	}
}
