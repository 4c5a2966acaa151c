package inventory

import (
	"errors"
	"strings"
	"testing"
)

func TestClusters(t *testing.T) {
	b := newBook(t)
	ctx := t.Context()
	for name, c := range map[string]struct {
		by         Caller
		name, kind string
		want       error
	}{
		"not an administrator": {user("ada"), "c", KindMetal, ErrDenied},
		"no name":              {sysAdmin, "", KindMetal, ErrInvalid},
		"an odd name":          {sysAdmin, "A/b", KindMetal, ErrInvalid},
		"an odd kind":          {sysAdmin, "c", "cloud", ErrInvalid},
	} {
		if _, err := b.AddCluster(ctx, c.by, c.name, c.kind, ""); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := b.AddCluster(ctx, sysAdmin, "c", KindEC2, strings.Repeat("x", maxDescription+1)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a long description: %v", err)
	}
	_, err := b.AddCluster(ctx, sysAdmin, "c", KindEC2, "text")
	b.must(err)
	if _, err := b.AddCluster(ctx, sysAdmin, "c", KindMetal, ""); !errors.Is(err, ErrExists) {
		t.Errorf("twice: %v", err)
	}
	if list, err := b.Clusters(ctx); err != nil || len(list) != 1 || list[0].Kind != KindEC2 || list[0].Description != "text" {
		t.Errorf("%+v, %v", list, err)
	}
	b.pool(Pool{Name: "web"})
	if err := b.RemoveCluster(ctx, sysAdmin, "c"); !errors.Is(err, ErrHolds) {
		t.Errorf("with a pool: %v", err)
	}
	if err := b.RemoveCluster(ctx, user("ada"), "c"); !errors.Is(err, ErrDenied) {
		t.Errorf("by somebody: %v", err)
	}
	b.must(b.DeletePool(ctx, sysAdmin, "web"))
	b.must(b.RemoveCluster(ctx, sysAdmin, "c"))
	if err := b.RemoveCluster(ctx, sysAdmin, "c"); !errors.Is(err, ErrNoCluster) {
		t.Errorf("gone: %v", err)
	}
}

func TestAPoolIsChecked(t *testing.T) {
	b := newBook(t)
	b.cfg.Profile = func(name string, settings map[string]string) error {
		if name != "host" || settings["time.max"] == "never" {
			return errors.New("no such profile")
		}
		return nil
	}
	_, err := b.AddCluster(t.Context(), sysAdmin, "c", KindMetal, "")
	b.must(err)
	month := Price{Currency: "EUR", PurchaseMicro: 4_200_000_000, AmortisationMonths: 48, PowerMonthlyMicro: 31_500_000}
	for name, c := range map[string]struct {
		change func(*Pool)
		good   bool
	}{
		"plain":                 {func(*Pool) {}, true},
		"a name":                {func(p *Pool) { p.Name = "a b" }, false},
		"a tier":                {func(p *Pool) { p.Tier = "middling" }, false},
		"light":                 {func(p *Pool) { p.Tier = TierLight }, true},
		"no cluster":            {func(p *Pool) { p.Cluster = "" }, false},
		"a class":               {func(p *Pool) { p.HardwareClass = "12c 16g" }, false},
		"a weight":              {func(p *Pool) { p.CPUWeight = -1 }, false},
		"a profile":             {func(p *Pool) { p.Profile = "host" }, true},
		"no such profile":       {func(p *Pool) { p.Profile = "guest" }, false},
		"a profile's setting":   {func(p *Pool) { p.Profile, p.ProfileSettings = "host", map[string]string{"time.max": "1s"} }, true},
		"a bad setting":         {func(p *Pool) { p.Profile, p.ProfileSettings = "host", map[string]string{"time.max": "never"} }, false},
		"a quota":               {func(p *Pool) { p.Quota.MemoryBytes = -1 }, false},
		"a taint":               {func(p *Pool) { p.Taints = []string{"two words"} }, false},
		"taints":                {func(p *Pool) { p.Taints = make([]string, maxTaints+1) }, false},
		"a label":               {func(p *Pool) { p.Labels = map[string]string{"": "x"} }, false},
		"a long label":          {func(p *Pool) { p.Labels = map[string]string{"k": strings.Repeat("x", maxName+1)} }, false},
		"labels":                {func(p *Pool) { p.Labels = map[string]string{"example.com/k": "any thing"} }, true},
		"hourly":                {func(p *Pool) { p.Price = Price{Currency: "EUR", HourlyMicro: 1} }, true},
		"by month":              {func(p *Pool) { p.Price = month }, true},
		"free":                  {func(p *Pool) { p.Price = Price{Currency: "EUR"} }, true},
		"no currency":           {func(p *Pool) { p.Price = Price{HourlyMicro: 1} }, false},
		"a currency":            {func(p *Pool) { p.Price = Price{Currency: "eur"} }, false},
		"below 0":               {func(p *Pool) { p.Price = Price{Currency: "EUR", RackMonthlyMicro: -1} }, false},
		"too much":              {func(p *Pool) { p.Price = Price{Currency: "EUR", HourlyMicro: maxMicro + 1} }, false},
		"both":                  {func(p *Pool) { p.Price = month; p.Price.HourlyMicro = 1 }, false},
		"without months":        {func(p *Pool) { p.Price = month; p.Price.AmortisationMonths = 0 }, false},
		"months of nothing":     {func(p *Pool) { p.Price = Price{Currency: "EUR", AmortisationMonths: 12} }, false},
		"many months":           {func(p *Pool) { p.Price = month; p.Price.AmortisationMonths = maxMonths + 1 }, false},
		"months, and no a coin": {func(p *Pool) { p.Price = Price{AmortisationMonths: 1} }, false},
	} {
		p := Pool{Name: "web", Cluster: "c", Tier: TierCore}
		c.change(&p)
		made, err := b.CreatePool(t.Context(), sysAdmin, p)
		if c.good != (err == nil) || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			b.must(b.DeletePool(t.Context(), sysAdmin, made.Name))
		}
	}
}

func TestSetPool(t *testing.T) {
	b := newBook(t)
	ctx := t.Context()
	b.pool(Pool{Name: "web", HardwareClass: "32c-32g", Labels: map[string]string{"a": "b"}})
	b.must(b.SetRole(ctx, sysAdmin, "web", "ada", RoleAdmin))
	b.must(b.SetRole(ctx, sysAdmin, "web", "dora", RoleDeployer))
	word, number, light := "x", int32(8), TierLight
	labels := map[string]string{"c": "d"}
	own := map[string]PoolChange{
		"labels": {Labels: &labels}, "taints": {Taints: &[]string{"gpu"}}, "profile": {Profile: &word}, "settings": {ProfileSettings: &map[string]string{"time.max": "1s"}}, "nothing": {},
	}
	theirs := map[string]PoolChange{
		"price": {Price: &Price{Currency: "EUR", HourlyMicro: 5}}, "quota": {Quota: &Quota{Servers: 3}}, "weight": {CPUWeight: &number}, "tier": {Tier: &light}, "class": {HardwareClass: &word},
	}
	for name, c := range own {
		if _, err := b.SetPool(ctx, user("dora"), "web", c); !errors.Is(err, ErrDenied) {
			t.Errorf("%s by a deployer: %v", name, err)
		}
		if _, err := b.SetPool(ctx, user("x"), "web", c); !errors.Is(err, ErrNoPool) {
			t.Errorf("%s by a stranger: %v", name, err)
		}
		_, err := b.SetPool(ctx, user("ada"), "web", c)
		b.must(err)
	}
	for name, c := range theirs {
		if _, err := b.SetPool(ctx, user("ada"), "web", c); !errors.Is(err, ErrDenied) {
			t.Errorf("%s by the pool's admin: %v", name, err)
		}
		_, err := b.SetPool(ctx, sysAdmin, "web", c)
		b.must(err)
	}
	p, err := b.Pool(ctx, "web")
	if err != nil || p.Labels["c"] != "d" || len(p.Labels) != 1 || p.Taints[0] != "gpu" || p.Profile != "x" || p.Price.HourlyMicro != 5 || p.Quota.Servers != 3 ||
		p.CPUWeight != 8 || p.Tier != TierLight || p.HardwareClass != "x" || p.ProfileSettings["time.max"] != "1s" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := b.SetPool(ctx, sysAdmin, "web", PoolChange{Tier: &word}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a tier that is none: %v", err)
	}
	if _, err := b.SetPool(ctx, sysAdmin, "nowhere", PoolChange{}); !errors.Is(err, ErrNoPool) {
		t.Errorf("a pool that is not there: %v", err)
	}
	if _, err := b.Pool(ctx, "nowhere"); !errors.Is(err, ErrNoPool) {
		t.Errorf("a pool that is not there: %v", err)
	}
}

// A pool that is made anew under an old name has none of the old roles, however
// many there were.
func TestDeletePool(t *testing.T) {
	b := newBook(t)
	ctx := t.Context()
	b.pool(Pool{Name: "web"})
	for n := range 120 {
		b.must(b.SetRole(ctx, sysAdmin, "web", "user"+string(rune('a'+n%26))+strings.Repeat("x", n/26), RoleAdmin))
	}
	if err := b.DeletePool(ctx, user("usera"), "web"); !errors.Is(err, ErrDenied) {
		t.Errorf("by the pool's admin: %v", err)
	}
	b.must(b.DeletePool(ctx, sysAdmin, "web"))
	b.pool(Pool{Name: "web"})
	if roles, err := b.Roles(ctx, sysAdmin, "web"); err != nil || len(roles) != 0 {
		t.Errorf("%d roles, %v", len(roles), err)
	}
	if _, err := b.CreatePool(ctx, sysAdmin, Pool{Name: "web", Cluster: "c"}); !errors.Is(err, ErrExists) {
		t.Errorf("twice: %v", err)
	}
	if _, err := b.CreatePool(ctx, user("usera"), Pool{Name: "db", Cluster: "c"}); !errors.Is(err, ErrDenied) {
		t.Errorf("by somebody: %v", err)
	}
	if _, err := b.CreatePool(ctx, sysAdmin, Pool{Name: "db", Cluster: "nowhere"}); !errors.Is(err, ErrNoCluster) {
		t.Errorf("in no cluster: %v", err)
	}
}

// Who may not see a server hears that it is not there, and sees those of the
// own pools alone.
func TestWhoSeesServers(t *testing.T) {
	b := newBook(t)
	ctx := t.Context()
	b.pool(Pool{Name: "web"})
	b.pool(Pool{Name: "db"})
	b.must(b.SetRole(ctx, sysAdmin, "web", "vera", RoleViewer))
	for pool, peer := range map[string]string{"web": "p", "db": "q"} {
		_, err := b.Arrived(ctx, Arrival{PeerID: peer, Hostname: pool + "1", Pool: pool})
		b.must(err)
	}
	vera := user("vera")
	if list, err := b.Visible(ctx, vera, ""); err != nil || len(list) != 1 || list[0].Name != "web1" {
		t.Errorf("%v, %v", list, err)
	}
	if list, err := b.Visible(ctx, sysAdmin, ""); err != nil || len(list) != 2 || list[0].Name != "db1" {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := b.Visible(ctx, vera, "db"); !errors.Is(err, ErrNoPool) {
		t.Errorf("another pool: %v", err)
	}
	if _, err := b.Owned(ctx, vera, "web1", View); err != nil {
		t.Error(err)
	}
	if _, err := b.Owned(ctx, vera, "web1", Manage); !errors.Is(err, ErrDenied) {
		t.Errorf("a viewer manages: %v", err)
	}
	_, hidden := b.Owned(ctx, vera, "db1", View)
	_, absent := b.Owned(ctx, vera, "db2", View)
	if !errors.Is(hidden, ErrNoServer) || !errors.Is(absent, ErrNoServer) || len(hidden.Error()) != len(absent.Error()) {
		t.Errorf("%v\n%v", hidden, absent)
	}
	for name, do := range map[string]func() error{
		"drain": func() error { _, err := b.Drain(ctx, vera, "web1", false); return err }, "retire": func() error { _, err := b.Retire(ctx, vera, "web1"); return err },
		"taint": func() error { _, err := b.SetTaint(ctx, vera, "web1", "x", false); return err },
	} {
		if err := do(); !errors.Is(err, ErrDenied) {
			t.Errorf("%s by a viewer: %v", name, err)
		}
	}
	for _, remove := range []bool{false, false, true, true} {
		s, err := b.SetTaint(ctx, sysAdmin, "web1", "gpu", remove)
		if err != nil || len(s.Taints) != map[bool]int{false: 1, true: 0}[remove] {
			t.Errorf("taints %v, %v", s.Taints, err)
		}
	}
	if _, err := b.SetTaint(ctx, sysAdmin, "web1", "two words", false); !errors.Is(err, ErrInvalid) {
		t.Errorf("a taint of two words: %v", err)
	}
	// A membership that was revoked ends the server; twice is once.
	for range 2 {
		b.must(b.RetirePeer(ctx, "p"))
	}
	b.must(b.RetirePeer(ctx, "nobody"))
	if s, err := b.OfPeer(ctx, "p"); err != nil || s.Phase != Retired {
		t.Errorf("%+v, %v", s, err)
	}
}
