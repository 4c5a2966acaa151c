package cost

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestAlarmsThatAreDue(t *testing.T) {
	b := Budget{Monthly: 333, Alarms: []int{50, 100, 200}}
	for spent, want := range map[int64]int{0: 0, 166: 0, 167: 50, 332: 50, 333: 100, 665: 100, 666: 200, 1 << 60: 200} {
		if got := b.due(spent); got != want {
			t.Errorf("%d of 333: alarm %d, want %d", spent, got, want)
		}
	}
	if got := (Budget{Monthly: MaxMicro, Alarms: []int{1000}}).due(MaxMicro*10 - 1); got != 0 {
		t.Errorf("the largest budget has its alarm %d", got)
	}
}

func (s *stage) set(scope, currency string, monthly int64, alarms ...int) {
	s.t.Helper()
	if err := s.SetBudget(s.t.Context(), Budget{Scope: scope, Currency: currency, Monthly: monthly, Alarms: alarms, By: "ann"}); err != nil {
		s.t.Fatal(err)
	}
}

// raised takes the alarms that a look at the budgets raised.
func (s *stage) raised() string {
	s.t.Helper()
	s.alarms = nil
	if err := s.CheckBudgets(s.t.Context()); err != nil && !errors.Is(err, errDisk) {
		s.t.Fatal(err)
	}
	out := ""
	for _, a := range s.alarms {
		out += fmt.Sprintf("%s %d%% %s %s;", a.Scope, a.Percent, Amount(a.Spent), a.Currency)
	}
	return out
}

func TestAlarmsAreRaisedOnceAMonth(t *testing.T) {
	s := newStage(t) // the first of March
	s.note(serverUse("a", "web", 10, 40, day), containerUse("c", "a", "web", "p", "shop", 5, 20, day))
	s.set("pool:web", "EUR", 24_000_000, 50, 100) // ten hours
	s.set("project:shop", "EUR", 24_000_000)      // twenty hours, alarms at 80 and 100 %
	s.set("project:shop", "USD", 1)               // nothing is spent in it
	s.set("project:none", "EUR", 1)               //
	for _, c := range []struct {
		at   time.Time
		want string
	}{
		{at(4, 59), ""},
		{at(5, 0), "pool:web 50% 12 EUR;"},
		{at(5, 30), ""},
		{at(17, 0), "pool:web 100% 40.8 EUR;project:shop 80% 20.4 EUR;"},
		{at(31*24, 0).Add(-time.Millisecond), "project:shop 100% 892.799999 EUR;"},
		{at(31*24, 0), ""}, // April
		{at(31*24+6, 0), "pool:web 50% 14.4 EUR;"},
	} {
		s.now = c.at
		s.restart()
		if got := s.raised(); got != c.want {
			t.Errorf("%v: %q, want %q", c.at, got, c.want)
		}
	}
	s.set("pool:web", "EUR", 20_000_000, 70, 60, 70)
	if got := s.raised(); got != "pool:web 70% 14.4 EUR;" {
		t.Errorf("after it was set anew: %q", got)
	}
}

func TestAnAlarmIsRatherToldTwice(t *testing.T) {
	s := newStage(t)
	s.note(serverUse("a", "web", 10, 40, day))
	s.set("pool:web", "EUR", 1)
	s.now = at(1, 0)
	s.store.before = true
	if first, again, then := s.raised(), s.raised(), s.raised(); first == "" || again != first || then != "" {
		t.Errorf("%q, %q, %q", first, again, then)
	}
}

func TestBudgetsAreListedToWhomTheyConcern(t *testing.T) {
	s := newStage(t)
	s.note(serverUse("a", "web", 10, 40, day), containerUse("c", "a", "web", "p", "shop", 5, 20, day))
	for _, scope := range []string{"pool:web", "pool:old", "project:shop", "project:web"} {
		s.set(scope, "EUR", 1_000_000)
	}
	s.now = at(1, 0)
	for _, c := range []struct {
		name  string
		sight Sight
		want  string
	}{
		{"nobody", Sight{}, "[]"},
		{"an administrator", Sight{All: true}, "[pool:old 0 pool:web 2400000 project:shop 1200000 project:web 0]"},
		{"a pool's viewer", Sight{Pools: map[string]bool{"web": true}}, "[pool:web 2400000]"},
		{"a project's member", Sight{Projects: map[string]time.Time{"shop": {}}}, "[project:shop 1200000]"},
	} {
		list, err := s.Budgets(t.Context(), c.sight)
		var got []string
		for _, b := range list {
			got = append(got, fmt.Sprint(b.Scope, " ", b.Spent))
		}
		if err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("%s: %v, want %s, error %v", c.name, got, c.want, err)
		}
	}
	for _, c := range []struct{ scope, currency, want string }{
		{"pool:web", "USD", "pool:web USD: no such budget"}, {"pool:none", "", "pool:none: no such budget"},
	} {
		if err := s.RemoveBudget(t.Context(), c.scope, c.currency); !errors.Is(err, ErrNoBudget) || err.Error() != c.want {
			t.Errorf("one that is not there: %v, want %s", err, c.want)
		}
	}
	if err := errors.Join(s.RemoveBudget(t.Context(), "pool:web", "EUR"), s.RemoveBudget(t.Context(), "project:web", "")); err != nil {
		t.Error(err)
	}
	list, err := s.Budgets(t.Context(), Sight{All: true})
	if err != nil || len(list) != 2 || list[0].Scope != "pool:old" || !slices.Equal(list[0].Alarms, []int{80, 100}) {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestWhatIsNoBudget(t *testing.T) {
	s := newStage(t)
	good := Budget{Scope: "pool:web", Currency: "EUR", Monthly: 1, Alarms: []int{1}}
	for name, edit := range map[string]func(*Budget){
		"no scope":        func(b *Budget) { b.Scope = "" },
		"no name":         func(b *Budget) { b.Scope = "pool:" },
		"another kind":    func(b *Budget) { b.Scope = "user:ann" },
		"a path":          func(b *Budget) { b.Scope = "pool:a/b" },
		"a space":         func(b *Budget) { b.Scope = "pool:a b" },
		"no currency":     func(b *Budget) { b.Currency = "" },
		"nothing":         func(b *Budget) { b.Monthly = 0 },
		"too much":        func(b *Budget) { b.Monthly = MaxMicro + 1 },
		"an alarm at 0":   func(b *Budget) { b.Alarms = []int{0} },
		"an alarm beyond": func(b *Budget) { b.Alarms = []int{1001} },
		"many alarms":     func(b *Budget) { b.Alarms = []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11} },
	} {
		bad := good
		edit(&bad)
		if err := s.SetBudget(t.Context(), bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := range maxBudgets {
		s.set(fmt.Sprint("pool:p", n), "EUR", 1)
	}
	if err := s.SetBudget(t.Context(), good); !errors.Is(err, ErrTooMuch) {
		t.Errorf("one more than fit: %v", err)
	}
	s.set("pool:p7", "EUR", 2)
}
