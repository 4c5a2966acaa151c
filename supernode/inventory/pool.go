package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/shoalproject/shoal/supernode/meta"
)

// The tiers of a pool: what its machines are good enough for.
const (
	TierCore  = "core"
	TierLight = "light"
)

const (
	// DefaultCPUWeight is how much a core weighs against a GiB of memory where
	// a pool does not say.
	DefaultCPUWeight = 4
	maxCPUWeight     = 1000
	maxLabels        = 64
	maxTaints        = 16
	maxSettings      = 200
	maxSetting       = 4 << 10 // bytes
	maxMonths        = 240
	// maxMicro bounds an amount: a thousand million of a currency's unit.
	maxMicro = 1_000_000_000_000_000
)

// Price is what a server of a pool costs, in millionths of the currency's
// unit. Either HourlyMicro is set or the amounts by month.
type Price struct {
	Currency           string `json:"currency,omitempty"` // ISO 4217; "": no price is known
	HourlyMicro        int64  `json:"hourly_micro,omitempty"`
	PurchaseMicro      int64  `json:"purchase_micro,omitempty"`
	AmortisationMonths int32  `json:"amortisation_months,omitempty"`
	PowerMonthlyMicro  int64  `json:"power_monthly_micro,omitempty"`
	RackMonthlyMicro   int64  `json:"rack_monthly_micro,omitempty"`
	EgressGBMicro      int64  `json:"egress_gb_micro,omitempty"`
}

// Quota bounds a pool; 0 is no limit. Servers bounds how many it has, the
// others what may be placed on it.
type Quota struct {
	Servers     int32 `json:"servers,omitempty"`
	CPUMilli    int64 `json:"cpu_milli,omitempty"`
	MemoryBytes int64 `json:"memory_bytes,omitempty"`
}

// Pool is a set of servers of one sort.
type Pool struct {
	Name            string            `json:"name"`
	Cluster         string            `json:"cluster"`
	HardwareClass   string            `json:"hardware_class,omitempty"`
	Tier            string            `json:"tier"`
	Labels          map[string]string `json:"labels,omitempty"`
	Taints          []string          `json:"taints,omitempty"`
	Price           Price             `json:"price,omitzero"`
	Quota           Quota             `json:"quota,omitzero"`
	Profile         string            `json:"profile,omitempty"`
	ProfileSettings map[string]string `json:"profile_settings,omitempty"` // by "step.key"
	CPUWeight       int32             `json:"cpu_weight,omitempty"`       // 0: DefaultCPUWeight
	Created         time.Time         `json:"created,omitzero"`           // zero: hosts joined it, and nobody made it

	Role Role `json:"-"` // the caller's own
}

// CreatePool makes a pool in a cluster. Only system administrators may. Hosts
// that joined under its name before are in it.
func (i *Inventory) CreatePool(ctx context.Context, by Caller, p Pool) (Pool, error) {
	if err := govern(by, "make pools"); err != nil {
		return Pool{}, err
	}
	if p.Tier == "" {
		p.Tier = TierCore
	}
	p.Created, p.Role = i.cfg.Now().UTC(), ""
	if err := i.checkPool(p); err != nil {
		return Pool{}, fmt.Errorf("make pool %.70q: %w", p.Name, err)
	}
	have, err := meta.Records[Pool](ctx, i.cfg.Meta, poolPrefix)
	if err != nil {
		return Pool{}, fmt.Errorf("make pool %s: %w", p.Name, err)
	}
	if len(have) >= maxPools {
		return Pool{}, fmt.Errorf("%d pools are enough: more are %w", len(have), ErrInvalid)
	}
	err = i.writePool(ctx, p.Cluster, +1, p.Name, func(old *Pool) (*Pool, error) {
		if old != nil {
			return nil, ErrExists
		}
		return &p, nil
	})
	if err != nil {
		return Pool{}, fmt.Errorf("make pool %s: %w", p.Name, err)
	}
	return p, i.settlePool(ctx, p.Name)
}

// writePool changes a pool's record and how many pools its cluster has, if no
// server came into the pool or left it meanwhile.
func (i *Inventory) writePool(ctx context.Context, cluster string, more int, name string, change func(old *Pool) (*Pool, error), extra ...meta.Op) error {
	return update(ctx, i.cfg.Meta, poolPrefix+name, func(old *Pool) (*Pool, []meta.Compare, []meta.Op, error) {
		_, taken, err := i.seatsOf(ctx, name)
		if err != nil {
			return nil, nil, nil, err
		}
		compares := []meta.Compare{taken}
		next, err := change(old)
		if err != nil || more == 0 {
			return next, compares, extra, err
		}
		c, revision, err := meta.ReadRecord[Cluster](ctx, i.cfg.Meta, clusterPrefix+cluster)
		if err != nil {
			return nil, nil, nil, err
		}
		if c == nil {
			return nil, nil, nil, fmt.Errorf("%w: %q; make it with 'dfget cluster add'", ErrNoCluster, cluster)
		}
		c.Pools += more
		write, err := meta.PutRecord(clusterPrefix+cluster, c)
		return next, append(compares, meta.Compare{Key: clusterPrefix + cluster, Revision: revision}), append(slices.Clone(extra), write), err
	})
}

func (i *Inventory) checkPool(p Pool) error {
	if !wellNamed(p.Name) {
		return badName("pool", p.Name)
	}
	if !wellNamed(p.Cluster) {
		return badName("cluster", p.Cluster)
	}
	if p.Tier != TierCore && p.Tier != TierLight {
		return fmt.Errorf("the tier %.40q is %w: give %s or %s", p.Tier, ErrInvalid, TierCore, TierLight)
	}
	if p.HardwareClass != "" && !plainWord(p.HardwareClass) {
		return fmt.Errorf("the hardware class %.70q is %w: 1 to %d of letters, digits and . _ - / = :", p.HardwareClass, ErrInvalid, maxName)
	}
	if p.CPUWeight < 0 || p.CPUWeight > maxCPUWeight {
		return fmt.Errorf("a CPU weight of %d is %w: 1 to %d, or 0 for %d", p.CPUWeight, ErrInvalid, maxCPUWeight, DefaultCPUWeight)
	}
	if err := i.checkProfile(p); err != nil {
		return err
	}
	if q := p.Quota; q.Servers < 0 || q.CPUMilli < 0 || q.MemoryBytes < 0 {
		return fmt.Errorf("the quota is %w: give numbers above 0, or 0 for no limit", ErrInvalid)
	}
	return errors.Join(checkTaints(p.Taints), checkMap("label", p.Labels, maxLabels, maxName),
		checkMap("setting of the profile", p.ProfileSettings, maxSettings, maxSetting), p.Price.check())
}

func (i *Inventory) checkProfile(p Pool) error {
	if p.Profile == "" {
		return nil
	}
	if !wellNamed(p.Profile) {
		return badName("profile", p.Profile)
	}
	if i.cfg.Profile == nil {
		return nil
	}
	if err := i.cfg.Profile(p.Profile, p.ProfileSettings); err != nil {
		return fmt.Errorf("%w: %w; see 'dfget profile list'", ErrInvalid, err)
	}
	return nil
}

// plainWord reports whether s is a word that needs no quotes anywhere.
func plainWord(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._-/=:", c)
	})
}

func checkTaints(taints []string) error {
	if len(taints) > maxTaints {
		return fmt.Errorf("%d taints are %w: at most %d", len(taints), ErrInvalid, maxTaints)
	}
	for _, t := range taints {
		if !plainWord(t) {
			return fmt.Errorf("the taint %.70q is %w: 1 to %d of letters, digits and . _ - / = :", t, ErrInvalid, maxName)
		}
	}
	return nil
}

func checkMap(what string, m map[string]string, entries, length int) error {
	if len(m) > entries {
		return fmt.Errorf("%d of one %s each are %w: at most %d", len(m), what, ErrInvalid, entries)
	}
	for k, v := range m {
		if !plainWord(k) || len(v) > length || !utf8.ValidString(v) {
			return fmt.Errorf("the %s %.70q is %w: a name of at most %d letters, digits and . _ - / = :, and a text of at most %d bytes", what, k, ErrInvalid, maxName, length)
		}
	}
	return nil
}

func (p Price) check() error {
	amounts := []int64{p.HourlyMicro, p.PurchaseMicro, p.PowerMonthlyMicro, p.RackMonthlyMicro, p.EgressGBMicro}
	if p.Currency == "" {
		if slices.Max(amounts) != 0 || slices.Min(amounts) != 0 || p.AmortisationMonths != 0 {
			return fmt.Errorf("the price is %w: it has no currency, such as EUR", ErrInvalid)
		}
		return nil
	}
	if len(p.Currency) != 3 || strings.ContainsFunc(p.Currency, func(c rune) bool { return c < 'A' || c > 'Z' }) {
		return fmt.Errorf("the currency %.10q is %w: give three capital letters, such as EUR", p.Currency, ErrInvalid)
	}
	if slices.Min(amounts) < 0 || slices.Max(amounts) > maxMicro {
		return fmt.Errorf("the price is %w: amounts go from 0 to %d", ErrInvalid, maxMicro/1_000_000)
	}
	monthly := p.PurchaseMicro != 0 || p.AmortisationMonths != 0 || p.PowerMonthlyMicro != 0 || p.RackMonthlyMicro != 0
	if p.HourlyMicro != 0 && monthly {
		return fmt.Errorf("the price is %w: give either an hourly one, or purchase, months, power and rack", ErrInvalid)
	}
	if p.AmortisationMonths < 0 || p.AmortisationMonths > maxMonths || (p.PurchaseMicro != 0) != (p.AmortisationMonths != 0) {
		return fmt.Errorf("the price is %w: a purchase goes over 1 to %d months", ErrInvalid, maxMonths)
	}
	return nil
}

// PoolChange is what SetPool changes; nil leaves as it is.
type PoolChange struct {
	HardwareClass, Tier, Profile *string
	Labels, ProfileSettings      *map[string]string
	Taints                       *[]string
	Price                        *Price
	Quota                        *Quota
	CPUWeight                    *int32
}

// right is what a change needs: what a pool costs and how large it may become
// is the system administrators'.
func (c PoolChange) right() Right {
	if c.Price != nil || c.Quota != nil || c.CPUWeight != nil || c.Tier != nil || c.HardwareClass != nil {
		return Govern
	}
	return Manage
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// SetPool changes a pool. Its admins change labels, taints and the profile,
// system administrators the rest as well.
func (i *Inventory) SetPool(ctx context.Context, by Caller, name string, c PoolChange) (Pool, error) {
	var changed Pool
	err := i.changePool(ctx, by, name, c.right(), func(p *Pool) ([]meta.Compare, []meta.Op, error) {
		set(&p.HardwareClass, c.HardwareClass)
		set(&p.Tier, c.Tier)
		set(&p.Profile, c.Profile)
		set(&p.Labels, c.Labels)
		set(&p.ProfileSettings, c.ProfileSettings)
		set(&p.Taints, c.Taints)
		set(&p.Price, c.Price)
		set(&p.Quota, c.Quota)
		set(&p.CPUWeight, c.CPUWeight)
		changed = *p
		return nil, nil, i.checkPool(*p)
	})
	if err != nil {
		return Pool{}, fmt.Errorf("change pool %.70q: %w", name, err)
	}
	return changed, i.settlePool(ctx, name)
}

// changePool is the one way in which a pool and its roles change: the caller's
// right is looked at, and pool and extra are committed as one, if neither the
// pool nor any role on it changed in between.
func (i *Inventory) changePool(ctx context.Context, by Caller, name string, right Right, change func(*Pool) ([]meta.Compare, []meta.Op, error)) error {
	for range conflictTries {
		at, err := i.standing(ctx, by, name)
		if err != nil {
			return err
		}
		if err := at.permit(by, name, right); err != nil {
			return err
		}
		if at.revision == 0 {
			return errUnmade
		}
		compares, ops, err := change(at.pool)
		if err != nil {
			return err
		}
		write, err := meta.PutRecord(poolPrefix+name, at.pool)
		if err != nil {
			return err
		}
		// A change of the caller's own role writes the pool too, so that this
		// compare holds for what was allowed as well.
		_, err = i.cfg.Meta.Commit(ctx, append(compares, meta.Compare{Key: poolPrefix + name, Revision: at.revision}), append(ops, write))
		if !errors.Is(err, meta.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("%w, %d times over; try again", meta.ErrConflict, conflictTries)
}

// errUnmade is for a pool that is known by the hosts in it alone.
var errUnmade = fmt.Errorf("hosts joined a pool of this name, but there is %w; make it with 'dfget pool create'", ErrNoPool)

// DeletePool removes a pool without servers, and its roles. Only system
// administrators may.
func (i *Inventory) DeletePool(ctx context.Context, by Caller, name string) error {
	if err := govern(by, "delete pools"); err != nil {
		return err
	}
	for done := false; !done; {
		at, err := i.standing(ctx, by, name)
		if err == nil {
			err = at.permit(by, name, Govern)
		}
		if err == nil && at.revision == 0 {
			err = errUnmade
		}
		if err != nil {
			return fmt.Errorf("delete a pool: %w", err)
		}
		page, err := i.cfg.Meta.List(ctx, rolePrefix+name+"/", "", meta.MaxOps/2)
		if err != nil {
			return fmt.Errorf("delete pool %s: %w", name, err)
		}
		var roles []meta.Op
		for _, v := range page {
			roles = append(roles, meta.Delete(v.Key))
		}
		done = len(page) == 0 // who gives a role writes the pool: none is overlooked
		if err := i.tryDeletePool(ctx, *at.pool, roles, done); err != nil {
			return fmt.Errorf("delete pool %s: %w", name, err)
		}
	}
	return nil
}

func (i *Inventory) tryDeletePool(ctx context.Context, p Pool, roles []meta.Op, last bool) error {
	more := 0
	if last {
		more = -1
	}
	return i.writePool(ctx, p.Cluster, more, p.Name, func(old *Pool) (*Pool, error) {
		if old == nil {
			return nil, ErrNoPool
		}
		taken, _, err := i.seatsOf(ctx, p.Name)
		if err != nil {
			return nil, err
		}
		if n := taken.Servers + taken.Imported; n > 0 {
			return nil, fmt.Errorf("%w: %d servers are in it; retire them first", ErrHolds, n)
		}
		if !last {
			return old, nil
		}
		return nil, nil
	}, roles...)
}

// Pool returns a pool for who asked May before: the supernode's own rooms. One
// that hosts joined by themselves and nobody made has no Created. The error
// wraps ErrNoPool.
func (i *Inventory) Pool(ctx context.Context, name string) (Pool, error) {
	at, err := i.standing(ctx, Caller{Admin: true}, name)
	if err == nil && at.pool == nil {
		err = ErrNoPool
	}
	if err != nil {
		return Pool{}, fmt.Errorf("pool %q: %w", name, err)
	}
	return *at.pool, nil
}

// Pools lists those that the caller may see, by name, each with the caller's
// own role.
func (i *Inventory) Pools(ctx context.Context, by Caller) ([]Pool, error) {
	names, prefixes := map[string]bool{}, []string{poolPrefix}
	if by.Admin { // those that hosts joined and nobody made, too
		prefixes = append(prefixes, seatsPrefix)
	}
	for _, prefix := range prefixes {
		for v, err := range meta.Scan(ctx, i.cfg.Meta, prefix) {
			if err != nil {
				return nil, fmt.Errorf("list pools: %w", err)
			}
			names[v.Key[len(prefix):]] = true
		}
	}
	var out []Pool
	for name := range names {
		p, err := i.May(ctx, by, name, View)
		switch {
		case err == nil:
			out = append(out, p)
		case !errors.Is(err, ErrNoPool):
			return nil, fmt.Errorf("list pools: %w", err)
		}
	}
	slices.SortFunc(out, func(a, b Pool) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// standing is a pool and what somebody is in it.
type standing struct {
	pool     *Pool         // nil: there is none
	revision meta.Revision // of the pool's record; 0: nobody made it
	role     Role
}

func (i *Inventory) standing(ctx context.Context, by Caller, name string) (at standing, err error) {
	if !wellNamed(name) {
		return at, nil
	}
	if at.pool, at.revision, err = meta.ReadRecord[Pool](ctx, i.cfg.Meta, poolPrefix+name); err != nil {
		return at, err
	}
	if at.pool == nil {
		taken, _, err := i.seatsOf(ctx, name)
		if err == nil && taken.Servers > 0 {
			at.pool = &Pool{Name: name, Tier: TierCore}
		}
		return at, err
	}
	at.role, err = i.roleOf(ctx, name, by)
	return at, err
}
