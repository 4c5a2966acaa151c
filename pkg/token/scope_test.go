package token

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestParseScope(t *testing.T) {
	for in, want := range map[string]string{
		"":                           "[]",
		"  ":                         "[]",
		"repository:shop/app:pull":   "[repository:shop/app:pull]",
		"repository:a:pull,push":     "[repository:a:pull,push]",
		"registry:catalog:*":         "[registry:catalog:*]",
		"repository:a:":              "[repository:a:]",
		"repository:a:pull,,pull":    "[repository:a:pull]",
		"repository(plugin):a:pull":  "[repository(plugin):a:pull]",
		"repository:h:5000/a:pull":   "[repository:h:5000/a:pull]",
		"repository:h.x:5000/a:push": "[repository:h.x:5000/a:push]",
		"repository:a:pull repository:b:push repository:a:push,pull": "[repository:a:pull,push repository:b:push]",
	} {
		got, err := ParseScope(in)
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v %v, want %s", in, got, err, want)
		}
	}
	got, err := ParseScopes([]string{"repository:a:pull", "repository:b:pull registry:catalog:*"})
	if err != nil || len(got) != 3 {
		t.Errorf("repeated parameters: %v %v", got, err)
	}
}

func TestParseScopeRefuses(t *testing.T) {
	many := ""
	for i := range maxAccess + 1 {
		many += fmt.Sprintf("repository:a%d:pull ", i)
	}
	actions := "repository:a:"
	for i := range maxActions + 1 {
		actions += string(rune('a'+i)) + ","
	}
	for name, in := range map[string]string{
		"no colon": "repository", "one colon": "repository:a", "no type": ":a:pull", "no name": "repository::pull",
		"climbs": "repository:../a:pull", "climbs inside": "repository:a/../b:pull", "dot": "repository:./a:pull",
		"leading slash": "repository:/a:pull", "double slash": "repository:a//b:pull", "trailing slash": "repository:a/:pull",
		"quote": `repository:a":pull`, "backslash": `repository:a\b:pull`, "NUL": "repository:a\x00:pull", "line": "repository:a\nb:pull",
		"star as name": "repository:*:pull", "type": "rep*:a:pull", "action": "repository:a:PULL", "action with star": "repository:a:pu*ll",
		"not ASCII": "repository:ä:pull", "long name": "repository:" + strings.Repeat("a", maxName+1) + ":pull",
		"long action": "repository:a:" + strings.Repeat("a", maxAction+1), "long type": strings.Repeat("a", maxType+1) + ":a:pull",
		"many": many, "many actions": actions, "long": strings.Repeat(" ", maxScope+1),
	} {
		if got, err := ParseScope(in); !errors.Is(err, ErrBadScope) {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
	if _, err := ParseScopes([]string{strings.Repeat(" ", maxScope), " "}); !errors.Is(err, ErrBadScope) {
		t.Error("the bound is on each parameter, not on all together")
	}
	if _, err := ParseScope("repository:a:a,b,c,d,e repository:a:f,g,h,i"); !errors.Is(err, ErrBadScope) {
		t.Error("actions over the bound when put together")
	}
}

func FuzzScope(f *testing.F) {
	f.Add("repository:h:5000/a:pull,push registry:catalog:*")
	f.Add("::: : a:b:c")
	f.Fuzz(func(t *testing.T, in string) {
		list, err := ParseScope(in)
		if err != nil {
			return
		}
		if len(list) > maxAccess {
			t.Fatalf("%d resources", len(list))
		}
		texts := make([]string, len(list))
		for i, a := range list {
			texts[i] = a.String()
		}
		again, err := ParseScope(strings.Join(texts, " "))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(list) {
			t.Fatalf("%v became %v, %v", list, again, err)
		}
	})
}

func TestJoin(t *testing.T) {
	sum := [32]byte{1, 2, 0xff}
	text := NewJoin("id-1", "sec_RET", sum)
	j, err := ParseJoin(text)
	if err != nil || j != (Join{"id-1", "sec_RET", sum}) {
		t.Fatalf("%#v %v", j, err)
	}
	for name, in := range map[string]string{
		"empty": "", "another kind": strings.Replace(text, "shoal-join", "other", 1), "cut": text[:len(text)-1], "longer": text + "0",
		"more parts": text + ".x", "no id": NewJoin("", "s", sum), "no secret": NewJoin("i", "", sum), "capitals": strings.ToUpper(text),
		"id that climbs": NewJoin("a/b", "s", sum), "no hex": text[:len(text)-1] + "g", "long": NewJoin("i", strings.Repeat("x", maxJoin), sum),
		"line at the end": text + "\n",
	} {
		if _, err := ParseJoin(in); !errors.Is(err, ErrBadJoin) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), "sec_RET") {
			t.Errorf("%s: threat 35: the error holds the secret", name)
		}
	}
	// Threat 35: no way of printing shows the secret.
	var b strings.Builder
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "join", j)
	if s := b.String() + fmt.Sprintf("%v %+v %#v %s", j, j, j, j); strings.Contains(s, "sec_RET") {
		t.Fatalf("printed: %s", s)
	}
}

func TestReturn(t *testing.T) {
	at, err := ParseReturn(NewReturn(noon.Add(time.Millisecond)))
	if err != nil || !at.Equal(noon) || !IsReturn(NewReturn(noon)) || IsReturn(NewJoin("a", "b", [32]byte{})) {
		t.Fatalf("%v %v", at, err)
	}
	for _, in := range []string{"", "1777896000", returnPrefix, returnPrefix + "x", returnPrefix + "-1", returnPrefix + "+1", returnPrefix + "01", returnPrefix + "9223372036854775807"} {
		if _, err := ParseReturn(in); !errors.Is(err, ErrBadJoin) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func FuzzJoin(f *testing.F) {
	f.Add(NewJoin("a", "b", [32]byte{}))
	f.Fuzz(func(t *testing.T, in string) {
		if j, err := ParseJoin(in); err == nil && NewJoin(j.ID, j.Secret, j.CASHA256) != in {
			t.Fatalf("%q is not the form of %v", in, j)
		}
	})
}
