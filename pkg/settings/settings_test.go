package settings

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

type sample struct {
	Listen string            `yaml:"listen" help:"Where to listen."`
	Cache  Size              `yaml:"cache-size" help:"How much\nto keep."`
	Upload Rate              `yaml:"upload-limit" help:"Limit."`
	Grace  time.Duration     `yaml:"grace" help:"How long."`
	Names  []string          `yaml:"public-name" help:"Names."`
	On     bool              `yaml:"on" help:"Switch."`
	Count  int               `yaml:"count" help:"Number."`
	Deep   map[string]string `yaml:"deep" help:"file: Only in the file."`
}

func load(t *testing.T, file string, args ...string) (sample, error) {
	t.Helper()
	c := sample{Listen: ":1", Cache: 50e9, Names: []string{"default"}}
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	Flags(fs, &c)
	if err := fs.Parse(args); err != nil {
		return c, err
	}
	path := ""
	if file != "" {
		path = filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c, Load(&c, path, fs)
}

func TestFlagWinsOverFileWinsOverDefault(t *testing.T) {
	c, err := load(t, "listen: ':2'\ncache-size: 2GiB\ngrace: 5m\npublic-name: [a]\ndeep: {k: v}\nupload-limit: 3MB/s\n",
		"--listen", ":3", "--public-name", "b", "--public-name", "c", "--on", "--count", "7")
	want := sample{":3", 2 << 30, 3e6, 5 * time.Minute, []string{"b", "c"}, true, 7, map[string]string{"k": "v"}}
	if err != nil || !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, %v; want %+v", c, err, want)
	}
	if c, err = load(t, ""); err != nil || c.Listen != ":1" || c.Cache != 50e9 || c.Names[0] != "default" {
		t.Errorf("the defaults came out as %+v, %v", c, err)
	}
}

func TestWrongSettings(t *testing.T) {
	for file, says := range map[string]string{
		"nonsense: 1":         "nonsense",
		"cache-size: 5 bears": "not a size",
		"grace: soon":         "Duration",
		"listen: [1":          "yaml",
		"upload-limit: -1":    "not a rate",
	} {
		if _, err := load(t, file); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v; it should say %q", file, err, says)
		}
	}
	for _, arg := range []string{"--cache-size=x", "--count=many", "--on=perhaps", "--grace=1", "--deep=x"} {
		if _, err := load(t, "", arg); err == nil {
			t.Errorf("%s was taken", arg)
		}
	}
}

func TestPrintedSettingsCanBeRead(t *testing.T) {
	c, err := load(t, "", "--cache-size=512MiB", "--upload-limit=200MB/s", "--public-name=x", "--grace=90s")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := Print(&out, &c); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "# How much\n# to keep.\ncache-size: 512MiB\n") {
		t.Errorf("printed:\n%s", out.String())
	}
	back, err := load(t, out.String())
	if len(back.Deep) == 0 {
		back.Deep = nil
	}
	if err != nil || !reflect.DeepEqual(back, c) {
		t.Errorf("read back %+v, %v; want %+v", back, err, c)
	}
}

func TestUnits(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "1": 1, "1B": 1, "1kB": 1000, "1.5MB": 1_500_000, "1KiB": 1024, "2TiB": 2 << 40, "50GB": 50e9} {
		var n Size
		if err := n.UnmarshalText([]byte(s)); err != nil || int64(n) != want {
			t.Errorf("%q = %d, %v; want %d", s, n, err, want)
		}
		text, _ := n.MarshalText()
		var back Size
		if err := back.UnmarshalText(text); err != nil || back != n {
			t.Errorf("%d is written %q and read as %d, %v", n, text, back, err)
		}
	}
	for n, want := range map[Size]string{0: "0", 7: "7", 50e9: "50GB", 512 << 20: "512MiB", 1500: "1500", 3000: "3kB"} {
		if got, _ := n.MarshalText(); string(got) != want {
			t.Errorf("%d is written %s, want %s", int64(n), got, want)
		}
	}
	for _, s := range []string{"", "x", "-1", "1XB", "1e30", "NaN", "9999999999TiB", "1 GB B"} {
		var n Size
		if err := n.UnmarshalText([]byte(s)); err == nil {
			t.Errorf("%q was taken as %d", s, n)
		}
	}
}
