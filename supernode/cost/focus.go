package cost

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// Formats of an export.
const (
	CSV  = "csv"
	JSON = "json" // an object a line
)

// focusColumns are the 43 columns of FOCUS 1.0 and behind them ours, which
// begin with x_ as the specification has it.
var focusColumns = strings.Fields(`
	AvailabilityZone BilledCost BillingAccountId BillingAccountName BillingCurrency BillingPeriodEnd BillingPeriodStart
	ChargeCategory ChargeClass ChargeDescription ChargeFrequency ChargePeriodEnd ChargePeriodStart
	CommitmentDiscountCategory CommitmentDiscountId CommitmentDiscountName CommitmentDiscountStatus CommitmentDiscountType
	ConsumedQuantity ConsumedUnit ContractedCost ContractedUnitPrice EffectiveCost InvoiceIssuerName ListCost ListUnitPrice
	PricingCategory PricingQuantity PricingUnit ProviderName PublisherName RegionId RegionName
	ResourceId ResourceName ResourceType ServiceCategory ServiceName SkuId SkuPriceId SubAccountId SubAccountName Tags
	x_CPUMilliSeconds x_Idle x_MemoryMiBSeconds x_Placement x_Pool x_Server`)

// Export writes a row for each container and day (UTC), and one for what
// nothing used of each server that day. Together the rows are what a report of
// the same time says. idc names who runs this and is the billing account.
func (b *Book) Export(ctx context.Context, to io.Writer, format, idc string, q Question, sight Sight) error {
	var write func(focusRow) error
	flush := func() error { return nil }
	switch format {
	case CSV:
		w := csv.NewWriter(to)
		if err := w.Write(focusColumns); err != nil {
			return fmt.Errorf("write the export: %w", err)
		}
		write = func(row focusRow) error { return w.Write(row.cells()) }
		flush = func() error { w.Flush(); return w.Error() }
	case JSON:
		enc := json.NewEncoder(to)
		enc.SetEscapeHTML(false)
		write = func(row focusRow) error { return enc.Encode(row) }
	default:
		return fmt.Errorf("the format %.70q is %w: csv and json are there", format, ErrInvalid)
	}
	pools, err := b.asked(ctx, q, sight)
	if err != nil {
		return err
	}
	for _, pool := range pools {
		var rows days
		if err := b.Charges(ctx, pool, q, sight, rows.add); err != nil {
			return err
		}
		// Whoever reads slowly keeps nobody else waiting.
		for _, c := range rows.list {
			if err := write(c.focus(idc, sight.Pool(pool))); err != nil {
				return fmt.Errorf("write the export: %w", err)
			}
		}
	}
	if err := flush(); err != nil {
		return fmt.Errorf("write the export: %w", err)
	}
	return nil
}

// days adds the charges of each day together; those of a server come in the
// order of time.
type days struct {
	list []*Charge
	// Of the day and server that came last: where they begin in the list, and
	// the sums by container, nil for none.
	begin int
	sums  map[*Interval]*Charge
}

func (d *days) add(c Charge) {
	if d.sums == nil || d.list[d.begin].Server != c.Server || !sameDay(d.list[d.begin].From, c.From) {
		d.begin, d.sums = len(d.list), map[*Interval]*Charge{}
	}
	sum := d.sums[c.Container]
	if sum == nil {
		d.sums[c.Container] = &c
		d.list = append(d.list, &c)
		return
	}
	sum.To, sum.Used = c.To, sum.Used+c.Used
	sum.Micro, sum.CPUMilli, sum.MemoryMiB = plus(sum.Micro, c.Micro), plus(sum.CPUMilli, c.CPUMilli), plus(sum.MemoryMiB, c.MemoryMiB)
}

func sameDay(a, b time.Time) bool {
	return a.Truncate(24 * time.Hour).Equal(b.Truncate(24 * time.Hour))
}

// focusRow is one row, by column. A column that is not in it is null.
type focusRow map[string]any

// focus puts a day's charge into the words of FOCUS. Which server it was is only
// for who may see servers.
func (c Charge) focus(idc string, servers bool) focusRow {
	const stamp = "2006-01-02T15:04:05Z"
	start := month(c.From)
	cost, hours := json.Number(Amount(c.Micro)), json.Number(Amount(divided(c.Used.Milliseconds(), 1_000_000, hourMilli)))
	row := focusRow{
		"BilledCost": cost, "ContractedCost": cost, "EffectiveCost": cost, "ListCost": cost,
		"BillingAccountId": idc, "BillingAccountName": idc, "InvoiceIssuerName": idc, "BillingCurrency": c.Server.Currency,
		"BillingPeriodStart": start.Format(stamp), "BillingPeriodEnd": start.AddDate(0, 1, 0).Format(stamp),
		"ChargePeriodStart": c.From.UTC().Format(stamp), "ChargePeriodEnd": c.To.UTC().Format(stamp),
		"ChargeCategory": "Usage", "ChargeFrequency": "Usage-Based",
		"ConsumedQuantity": hours, "ConsumedUnit": "Hours", "PricingQuantity": hours, "PricingUnit": "Hours", "PricingCategory": "Standard",
		"ProviderName": "Shoal", "PublisherName": "Shoal", "RegionId": idc, "RegionName": idc, "ServiceCategory": "Compute",
		"SkuId": c.Server.Pool, "SkuPriceId": fmt.Sprintf("%s/%s/%d", c.Server.Pool, c.Server.Currency, c.Server.Hourly),
		"x_Pool": c.Server.Pool, "x_Idle": c.Idle(),
		"x_CPUMilliSeconds": c.CPUMilli / 1000, "x_MemoryMiBSeconds": c.MemoryMiB / 1000,
	}
	tags := map[string]string{"pool": c.Server.Pool}
	if servers {
		row["x_Server"], tags["server"] = c.Server.ID, c.Server.Name
	}
	if c.Idle() {
		row["ServiceName"], row["ResourceType"] = "Shoal servers", "Server"
		row["ResourceId"], row["ResourceName"] = c.Server.ID, c.Server.Name
		row["ChargeDescription"] = "What nothing used of a server of pool " + c.Server.Pool
	} else {
		tags["placement"] = c.Container.Placement
		row["ServiceName"], row["ResourceType"], row["x_Placement"] = "Shoal containers", "Container", c.Container.Placement
		row["ResourceId"], row["ResourceName"] = c.Container.ID, c.Container.Placement
		row["ChargeDescription"] = fmt.Sprintf("Container of %s on pool %s", c.Container.Placement, c.Server.Pool)
		if c.Container.Project != "" {
			row["SubAccountId"], row["SubAccountName"] = c.Container.Project, c.Container.Project
		}
	}
	row["Tags"] = tags
	return row
}

// MarshalJSON writes all columns in their order.
func (r focusRow) MarshalJSON() ([]byte, error) {
	var out strings.Builder
	for i, column := range focusColumns {
		value, err := json.Marshal(r[column])
		if err != nil {
			return nil, err
		}
		sep := ","
		if i == 0 {
			sep = "{"
		}
		fmt.Fprintf(&out, "%s%q:%s", sep, column, value)
	}
	out.WriteByte('}')
	return []byte(out.String()), nil
}

// cells is the row for a CSV file; null is empty.
func (r focusRow) cells() []string {
	out := make([]string, 0, len(focusColumns))
	for _, column := range focusColumns {
		switch v := r[column].(type) {
		case nil:
			out = append(out, "")
		case string:
			out = append(out, inert(v))
		case map[string]string:
			raw, err := json.Marshal(v)
			if err != nil {
				raw = nil // of strings, never
			}
			out = append(out, string(raw))
		default:
			out = append(out, fmt.Sprint(v))
		}
	}
	return out
}

// inert keeps a text that a host or a person chose from being taken for a
// formula by the program that the file is opened with.
func inert(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}
