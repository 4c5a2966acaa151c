// Package settings makes one struct the whole truth about a program's
// configuration: its fields are the keys of the YAML file, the names of the
// flags and, by their help tags, the manual that `config print` shows. A flag
// wins over the file, the file over the default.
//
// A field is described by two tags: `yaml:"cache-size"` names the key and the
// flag, `help:"…"` says what it does. A field whose help begins with "file: "
// has no flag. Fields are strings, bools, ints, durations, lists of strings,
// types that read themselves from text, and (file only) anything YAML knows.
package settings

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// maxFile bounds a configuration file, in bytes.
const maxFile = 1 << 20

const fileOnly = "file: "

// field is one setting of the struct behind config.
type field struct {
	name, help string
	value      reflect.Value
}

func fields(config any) []field {
	v := reflect.ValueOf(config).Elem()
	var out []field
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		name, _, _ := strings.Cut(tag.Get("yaml"), ",")
		out = append(out, field{name: name, help: tag.Get("help"), value: v.Field(i)})
	}
	return out
}

// flagValue lets a flag write into a struct field and remembers what it was
// given, so that it can be said again after the file was read.
type flagValue struct {
	into  reflect.Value
	given []string
}

func (f *flagValue) String() string {
	if !f.into.IsValid() {
		return ""
	}
	return text(f.into)
}

func (f *flagValue) Type() string {
	switch f.into.Interface().(type) {
	case bool:
		return "bool"
	case int:
		return "number"
	case time.Duration:
		return "duration"
	case []string:
		return "text (repeatable)"
	case Size:
		return "size"
	case Rate:
		return "rate"
	}
	return "text"
}

// IsBoolFlag lets a switch stand without a value.
func (f *flagValue) IsBoolFlag() bool { return f.into.Kind() == reflect.Bool }

func (f *flagValue) Set(s string) error {
	if f.into.Kind() == reflect.Slice && len(f.given) == 0 {
		f.into.SetZero()
	}
	f.given = append(f.given, s)
	return set(f.into, s)
}

// Flags registers a flag for each field of the struct that config points to;
// the values it holds now are the defaults.
func Flags(fs *pflag.FlagSet, config any) {
	for _, f := range fields(config) {
		if strings.HasPrefix(f.help, fileOnly) || f.name == "" {
			continue
		}
		flag := fs.VarPF(&flagValue{into: f.value}, f.name, "", f.help)
		if f.value.Kind() == reflect.Bool {
			flag.NoOptDefVal = "true"
		}
	}
}

// Load reads the YAML file at path (none when empty) into config, then says
// the flags again that were given, so that they win. An unknown key is an
// error.
func Load(config any, path string, fs *pflag.FlagSet) error {
	if path != "" {
		if err := readFile(config, path); err != nil {
			return err
		}
	}
	var errs []error
	fs.Visit(func(f *pflag.Flag) {
		v, ok := f.Value.(*flagValue)
		if !ok {
			return
		}
		given := v.given
		v.given = nil
		for _, s := range given {
			if err := v.Set(s); err != nil {
				errs = append(errs, fmt.Errorf("--%s: %w", f.Name, err))
			}
		}
	})
	return errors.Join(errs...)
}

func readFile(config any, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return fmt.Errorf("read the configuration %s: %w", path, err)
	}
	if len(raw) > maxFile {
		return fmt.Errorf("the configuration %s is larger than %d bytes", path, maxFile)
	}
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(config); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("configuration %s: %w; 'config print' lists every key", path, readable(err))
	}
	return nil
}

var goType = regexp.MustCompile(`field (\S+) not found in type \S+`)

// readable says what YAML found without the names of our types.
func readable(err error) error {
	var wrong *yaml.TypeError
	if !errors.As(err, &wrong) {
		return err
	}
	return errors.New(goType.ReplaceAllString(strings.Join(wrong.Errors, "; "), "there is no key $1"))
}

// Print writes config as a YAML file in which every key stands under its help.
func Print(w io.Writer, config any) error {
	for _, f := range fields(config) {
		raw, err := yaml.Marshal(map[string]any{f.name: f.value.Interface()})
		if err != nil {
			return fmt.Errorf("print %s: %w", f.name, err)
		}
		for line := range strings.Lines(strings.TrimPrefix(f.help, fileOnly)) {
			fmt.Fprintf(w, "# %s\n", strings.TrimSuffix(line, "\n"))
		}
		if _, err := fmt.Fprintf(w, "%s\n", raw); err != nil {
			return err
		}
	}
	return nil
}

func text(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case encoding.TextMarshaler:
		b, err := x.MarshalText()
		if err != nil {
			return err.Error()
		}
		return string(b)
	case []string:
		return strings.Join(x, ",")
	default:
		return fmt.Sprint(x)
	}
}

func set(v reflect.Value, s string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(s))
	}
	switch p := v.Addr().Interface().(type) {
	case *string:
		*p = s
	case *[]string:
		*p = append(*p, strings.Split(s, ",")...)
	case *bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", s)
		}
		*p = b
	case *int:
		n, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", s)
		}
		*p = n
	case *time.Duration:
		d, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf("%q is not a time such as 90s or 720h", s)
		}
		*p = d
	default:
		return fmt.Errorf("a %T has no flag", p)
	}
	return nil
}
