package cost

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

func (s *stage) export(format string, sight Sight) string {
	s.t.Helper()
	var out bytes.Buffer
	if err := s.Export(s.t.Context(), &out, format, "east", Question{From: day, To: s.now}, sight); err != nil {
		s.t.Fatal(err)
	}
	return out.String()
}

// rows reads an export in CSV by column.
func (s *stage) rows(sight Sight) (out []map[string]string) {
	s.t.Helper()
	all, err := csv.NewReader(strings.NewReader(s.export(CSV, sight))).ReadAll()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, cells := range all[1:] {
		row := map[string]string{}
		for i, cell := range cells {
			row[all[0][i]] = cell
		}
		out = append(out, row)
	}
	return out
}

func TestAnExportedDay(t *testing.T) {
	s := newStage(t)
	c := containerUse("c1", "a", "web", "front", "shop", 5, 20, at(20, 30))
	s.now = at(26, 0)
	s.note(serverUse("a", "web", 10, 40, at(12, 0)), c)
	s.note(ended(c, at(25, 0)))
	rows := s.rows(Sight{All: true})
	var got []string
	for _, r := range rows {
		got = append(got, strings.Join([]string{
			r["ChargePeriodStart"], r["ChargePeriodEnd"], r["ResourceType"], r["ResourceId"], r["SubAccountId"], r["BilledCost"], r["BillingCurrency"], r["ConsumedQuantity"], r["x_Idle"],
		}, " "))
	}
	want := []string{
		// The server was there from noon, so for 12 h at 2.40 €: 28.80 €. The
		// container had the half of it for 3.5 h: 4.20 €.
		"2030-03-01T12:00:00Z 2030-03-02T00:00:00Z Server a  24.6 EUR 12 true",
		"2030-03-01T20:00:00Z 2030-03-02T00:00:00Z Container c1 shop 4.2 EUR 3.5 false",
		// And 1 h and 2 h the day after: 1.20 and 3.60 €.
		"2030-03-02T00:00:00Z 2030-03-02T01:00:00Z Container c1 shop 1.2 EUR 1 false",
		"2030-03-02T00:00:00Z 2030-03-02T02:00:00Z Server a  3.6 EUR 2 true",
	}
	if s := strings.Join(got, "\n"); s != strings.Join(want, "\n") {
		t.Errorf("the rows are\n%s\nwant\n%s", s, strings.Join(want, "\n"))
	}
	first := rows[1]
	for column, want := range map[string]string{
		"BillingPeriodStart": "2030-03-01T00:00:00Z", "BillingPeriodEnd": "2030-04-01T00:00:00Z", "ChargeCategory": "Usage", "ServiceCategory": "Compute",
		"BillingAccountId": "east", "ServiceName": "Shoal containers", "x_Pool": "web", "x_Server": "a", "x_Placement": "front", "CommitmentDiscountId": "",
		"x_CPUMilliSeconds": "63000000", "x_MemoryMiBSeconds": "258048000", "SkuPriceId": "web/EUR/2400000", "Tags": `{"placement":"front","pool":"web","server":"host-a"}`,
	} {
		if first[column] != want {
			t.Errorf("%s is %q, want %q", column, first[column], want)
		}
	}
	if len(focusColumns) != 43+6 {
		t.Errorf("%d columns: FOCUS 1.0 has 43, and 6 are ours", len(focusColumns))
	}
}

// TestExportsMakeUpTheReport: on random days, in both formats.
func TestExportsMakeUpTheReport(t *testing.T) {
	for seed := range uint64(30) {
		s := newStage(t)
		for _, i := range randomDay(rand.New(rand.NewPCG(seed, 6))) {
			if i.End.IsZero() {
				i.End = at(40, 0)
			}
			op, err := meta.PutRecord(usedKey(i), i)
			if err == nil {
				_, err = s.store.Commit(t.Context(), nil, []meta.Op{op})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		s.now = at(30, 0)
		report, total := s.costs(ByPool), int64(0)
		for _, micro := range report {
			total += micro
		}
		inCSV, inJSON := int64(0), int64(0)
		for _, r := range s.rows(Sight{All: true}) {
			inCSV += micro(t, r["BilledCost"])
		}
		for line := range strings.Lines(s.export(JSON, Sight{All: true})) {
			var row struct {
				BilledCost json.Number
				Tags       map[string]string
			}
			if err := json.Unmarshal([]byte(line), &row); err != nil {
				t.Fatal(err)
			}
			if row.Tags["pool"] != "web" {
				t.Fatalf("tags %v", row.Tags)
			}
			inJSON += micro(t, row.BilledCost.String())
		}
		if inCSV != total || inJSON != total {
			t.Fatalf("seed %d: %d in CSV and %d in JSON, the report has %d", seed, inCSV, inJSON, total)
		}
	}
}

func micro(t *testing.T, amount string) int64 {
	whole, part, _ := strings.Cut(amount, ".")
	out, err := strconv.ParseInt(whole+(part + "000000")[:6], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAnExportTellsNoMoreThanAReport(t *testing.T) {
	s := newStage(t)
	s.note(serverUse("a", "web", 10, 40, day), containerUse("c", "a", "web", "p", "shop", 5, 20, day), containerUse("d", "a", "web", "q", "lab", 1, 1, day))
	s.now = at(1, 0)
	rows := s.rows(Sight{Projects: map[string]time.Time{"shop": {}}})
	if len(rows) != 1 || rows[0]["SubAccountId"] != "shop" || rows[0]["x_Server"] != "" || strings.Contains(rows[0]["Tags"], "host") {
		t.Errorf("a member of shop gets %v", rows)
	}
	if out := s.export(CSV, Sight{}); strings.Count(out, "\n") != 1 {
		t.Errorf("nobody gets %q", out)
	}
	if err := s.Export(t.Context(), &bytes.Buffer{}, "xml", "east", Question{From: day, To: s.now}, Sight{All: true}); !errors.Is(err, ErrInvalid) {
		t.Errorf("xml: %v", err)
	}
}

// TestNamesAreNoFormulas: a host chooses its name, and somebody opens the file
// with a spreadsheet.
func TestNamesAreNoFormulas(t *testing.T) {
	s := newStage(t)
	u := serverUse("a", "web", 10, 40, day)
	u.Name = `=HYPERLINK("http://example.com","x")`
	s.note(u)
	s.now = at(1, 0)
	if got := s.rows(Sight{All: true})[0]["ResourceName"]; got != "'"+u.Name {
		t.Errorf("the name is %s", got)
	}
	for _, name := range []string{"+1", "-1", "@x", "\tx", "\rx"} {
		if got := inert(name); got != "'"+name {
			t.Errorf("%q is written as %q", name, got)
		}
	}
	if got := inert("web-1"); got != "web-1" {
		t.Errorf("web-1 is written as %q", got)
	}
}
