package dfget

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// decimal is a number that is kept as a whole number of its parts: an amount
// of money in millionths, cores in thousandths.
type decimal struct {
	value  *int64
	digits int // behind the point
}

// parseDecimal reads a number such as 0.12 exactly; more digits than are kept
// are refused and not rounded.
func parseDecimal(s string, digits int) (int64, error) {
	whole, part, _ := strings.Cut(s, ".")
	if len(part) > digits || whole == "" && part == "" || strings.ContainsFunc(whole+part, func(c rune) bool { return c < '0' || c > '9' }) {
		return 0, fmt.Errorf("%q is not a number such as 12 or 0.5, with at most %d digits behind the point", s, digits)
	}
	n, err := strconv.ParseInt(whole+part+strings.Repeat("0", digits-len(part)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return n, nil
}

// formatDecimal writes what parseDecimal reads.
func formatDecimal(n int64, digits int) string {
	unit := int64(math.Pow10(digits))
	if n%unit == 0 {
		return strconv.FormatInt(n/unit, 10)
	}
	return fmt.Sprintf("%d.%s", n/unit, strings.TrimRight(fmt.Sprintf("%0*d", digits, n%unit), "0"))
}

// Set implements pflag.Value.
func (d decimal) Set(s string) (err error) {
	*d.value, err = parseDecimal(s, d.digits)
	return err
}

// String implements pflag.Value.
func (d decimal) String() string {
	if d.value == nil {
		return "0"
	}
	return formatDecimal(*d.value, d.digits)
}

// Type implements pflag.Value.
func (d decimal) Type() string { return "number" }

func micro(to *int64) decimal { return decimal{to, 6} }
func milli(to *int64) decimal { return decimal{to, 3} }

// poolFlags are what a pool is, as flags.
type poolFlags struct {
	class, tier, profile string
	labels, taints       []string
	settings             []string
	price                shoalv1.Price
	quota                shoalv1.PoolQuota
	memory               settings.Size
	weight               int32
}

// parts are flags that are set together: one of them replaces all.
var (
	priceFlags = []string{"currency", "hourly", "purchase", "amortise-months", "power-monthly", "rack-monthly", "egress-gb"}
	quotaFlags = []string{"quota-servers", "quota-cpu", "quota-memory"}
)

func (p *poolFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.class, "class", "", "hardware class of its servers, such as 32c-32g")
	f.StringVar(&p.tier, "tier", "core", "core, or light for machines that are good enough for light services only")
	f.StringVar(&p.profile, "profile", "", "profile that makes its servers ready; '' for none")
	f.StringArrayVar(&p.settings, "profile-setting", nil, "STEP.KEY=VALUE, over the profile's own (repeatable; '' for none)")
	f.StringArrayVar(&p.labels, "label", nil, "KEY=VALUE (repeatable; '' for none)")
	f.StringArrayVar(&p.taints, "taint", nil, "keep off what does not tolerate this word (repeatable; '' for none)")
	f.StringVar(&p.price.Currency, "currency", "", "of the price: EUR, USD, …")
	f.Var(micro(&p.price.HourlyMicro), "hourly", "price of a server by the hour, such as 0.12; or the next four")
	f.Var(micro(&p.price.PurchaseMicro), "purchase", "what a server cost")
	f.Int32Var(&p.price.AmortisationMonths, "amortise-months", 0, "over how many months that is spread")
	f.Var(micro(&p.price.PowerMonthlyMicro), "power-monthly", "a server's power by the month")
	f.Var(micro(&p.price.RackMonthlyMicro), "rack-monthly", "a server's place in the rack by the month")
	f.Var(micro(&p.price.EgressGbMicro), "egress-gb", "price of a gigabyte from outside")
	f.Int32Var(&p.quota.Servers, "quota-servers", 0, "how many servers it may have; 0 is no limit")
	f.Var(milli(&p.quota.CpuMilli), "quota-cpu", "how many cores may be placed on it, such as 100 or 0.5; 0 is no limit")
	f.TextVar(&p.memory, "quota-memory", settings.Size(0), "memory `size` that may be placed on it, such as 512GiB; 0 is no limit")
	f.Int32Var(&p.weight, "cpu-weight", 0, "in a cost, how many GiB of memory a core weighs as much as; 0 is 4")
}

// needed says that a flag is missing.
func needed(flag, value string) error {
	if value == "" {
		return fmt.Errorf("%w: --%s is needed", settings.ErrUsage, flag)
	}
	return nil
}

// words leaves out what only says that there are none.
func words(list []string) []string {
	var out []string
	for _, w := range list {
		if w != "" {
			out = append(out, w)
		}
	}
	return out
}

// pairs takes KEY=VALUE apart.
func pairs(flag string, list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, pair := range words(list) {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("%w: --%s %q is not KEY=VALUE", settings.ErrUsage, flag, pair)
		}
		out[key] = value
	}
	return out, nil
}

// pool is the pool that all flags describe.
func (p *poolFlags) pool(name, cluster string) (*shoalv1.Pool, error) {
	labels, err := pairs("label", p.labels)
	if err != nil {
		return nil, err
	}
	values, err := pairs("profile-setting", p.settings)
	if err != nil {
		return nil, err
	}
	p.quota.MemoryBytes = int64(p.memory)
	return &shoalv1.Pool{
		Name: name, Cluster: cluster, HardwareClass: p.class, Tier: p.tier, Profile: p.profile, Labels: labels, Taints: words(p.taints),
		Price: &p.price, Quota: &p.quota, CpuWeight: p.weight, ProfileSettings: values,
	}, nil
}

// change is what the flags that were given change.
func (p *poolFlags) change(cmd *cobra.Command, name string) (*shoalv1.SetPoolRequest, error) {
	given := func(names ...string) bool {
		for _, n := range names {
			if cmd.Flags().Changed(n) {
				return true
			}
		}
		return false
	}
	all, err := p.pool(name, "")
	if err != nil {
		return nil, err
	}
	out := &shoalv1.SetPoolRequest{Name: name}
	if given("class") {
		out.HardwareClass = &p.class
	}
	if given("tier") {
		out.Tier = &p.tier
	}
	if given("profile") {
		out.Profile = &p.profile
	}
	if given("cpu-weight") {
		out.CpuWeight = &p.weight
	}
	if given("label") {
		out.SetLabels, out.Labels = true, all.Labels
	}
	if given("taint") {
		out.SetTaints, out.Taints = true, all.Taints
	}
	if given("profile-setting") {
		out.SetProfileSettings, out.ProfileSettings = true, all.ProfileSettings
	}
	if given(priceFlags...) {
		out.Price = all.Price
	}
	if given(quotaFlags...) {
		out.Quota = all.Quota
	}
	return out, nil
}
