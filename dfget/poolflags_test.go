package dfget

import (
	"io"
	"maps"
	"strings"
	"testing"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// Money and cores are exact: nothing goes through a float.
func TestParseDecimal(t *testing.T) {
	for _, c := range []struct {
		text   string
		digits int
		want   int64 // -1: refused
		back   string
	}{
		{"0", 6, 0, "0"}, {"12", 6, 12_000_000, "12"}, {"0.12", 6, 120_000, "0.12"}, {"4200.000001", 6, 4_200_000_001, "4200.000001"}, {"0.1", 6, 100_000, "0.1"},
		{".5", 3, 500, "0.5"}, {"1.", 3, 1000, "1"}, {"007", 3, 7000, "7"}, {"9223372036854775", 3, 9223372036854775000, "9223372036854775"},
		{"0.0000001", 6, -1, ""}, {"-1", 6, -1, ""}, {"1e3", 6, -1, ""}, {"", 6, -1, ""}, {".", 6, -1, ""}, {"1,5", 6, -1, ""}, {"1.2.3", 6, -1, ""}, {"99999999999999999999", 3, -1, ""}, {"+1", 3, -1, ""},
	} {
		got, err := parseDecimal(c.text, c.digits)
		if err != nil {
			got = -1
		}
		if got != c.want {
			t.Errorf("%q: %d, %v", c.text, got, err)
		}
		if back := formatDecimal(got, c.digits); err == nil && back != c.back {
			t.Errorf("%q: written as %q", c.text, back)
		}
	}
}

func TestPairs(t *testing.T) {
	got, err := pairs("label", []string{"", "a=1", "b=x=y", "c="})
	if err != nil || !maps.Equal(got, map[string]string{"a": "1", "b": "x=y", "c": ""}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"a", "=b"} {
		if _, err := pairs("label", []string{bad}); err == nil || exitStatus(err) != exitUsage {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A change is of what was given, and of nothing else.
func TestPoolChange(t *testing.T) {
	change := func(args ...string) *shoalv1.SetPoolRequest {
		t.Helper()
		var flags poolFlags
		cmd := (&app{}).poolShowCommand()
		flags.add(cmd)
		if err := cmd.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		out, err := flags.change(cmd, "web")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := change(); got.Tier != nil || got.Profile != nil || got.Price != nil || got.Quota != nil || got.SetLabels || got.SetTaints || got.SetProfileSettings || got.CpuWeight != nil || got.HardwareClass != nil {
		t.Errorf("nothing given: %v", got)
	}
	got := change("--profile", "", "--taint", "", "--label", "a=b", "--currency", "EUR", "--hourly", "0.12", "--quota-cpu", "1.5", "--quota-memory", "1GiB")
	if got.Profile == nil || *got.Profile != "" || !got.SetTaints || len(got.Taints) != 0 || got.Labels["a"] != "b" || got.Tier != nil {
		t.Errorf("given: %v", got)
	}
	if got.Price.GetCurrency() != "EUR" || got.Price.GetHourlyMicro() != 120_000 || got.Quota.GetCpuMilli() != 1500 || got.Quota.GetMemoryBytes() != 1<<30 {
		t.Errorf("price %v, quota %v", got.Price, got.Quota)
	}
}

func TestAPoolIsNotChangedByNothing(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	for line, nothing := range map[string]bool{"pool set web": true, "pool set web --json -q": true, "pool set web --taint x": false, "pool set web --quota-cpu 0": false} {
		var errOut strings.Builder
		status := Run(t.Context(), strings.Fields(line), strings.NewReader(""), io.Discard, &errOut)
		if said := strings.Contains(errOut.String(), "nothing to change"); status != exitUsage || said != nothing {
			t.Errorf("dfget %s: exit status %d, it said %q", line, status, errOut.String())
		}
	}
}
