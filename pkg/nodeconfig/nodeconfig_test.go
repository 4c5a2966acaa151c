package nodeconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tree is a folder's files and folders: path → content and mode.
type tree map[string]string

func grow(t *testing.T, files tree) Options {
	t.Helper()
	root := t.TempDir()
	for path, content := range files {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return Options{Root: root, State: filepath.Join(t.TempDir(), "state", "setup")}
}

// look reads a tree back, modes included.
func look(t *testing.T, root string) tree {
	t.Helper()
	out := tree{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		content := ""
		if !d.IsDir() {
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(raw)
		}
		out["/"+rel] = fmt.Sprintf("%v %s", info.Mode(), content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func apply(t *testing.T, kind Kind, opts Options) *Plan {
	t.Helper()
	p, err := NewPlan(kind, opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(); err != nil {
		t.Fatal(err)
	}
	return p
}

const (
	hostsTOML = marker + "[host.\"http://127.0.0.1:65001\"]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = \"1s\"\n"
	defaults  = "/etc/containerd/certs.d/_default/hosts.toml"
	criV2     = "[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n"
	criV3     = "[plugins.\"io.containerd.cri.v1.images\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n"
)

func TestContainerd(t *testing.T) {
	for _, c := range []struct {
		name   string
		before tree
		major  int
		want   tree // files after, among others
	}{
		{"nothing there", tree{}, 0, tree{containerdConfig: marker + "version = 2\n\n" + criV2, defaults: hostsTOML}},
		{"nothing there, containerd 2", tree{}, 2, tree{containerdConfig: marker + "version = 3\n\n" + criV3, defaults: hostsTOML}},
		{"version 2 without the table", tree{containerdConfig: "version = 2\n# mine\n"}, 0,
			tree{containerdConfig: "version = 2\n# mine\n\n" + criV2, defaults: hostsTOML}},
		{"no newline at the end", tree{containerdConfig: "version = 3"}, 0, tree{containerdConfig: "version = 3\n\n" + criV3}},
		{"version 4", tree{containerdConfig: "version = 4\n"}, 0, tree{containerdConfig: "version = 4\n\n" + criV3}},
		{"an empty value", tree{containerdConfig: "version = 2\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\".registry]\n    config_path = \"\" # here\n    [plugins.\"io.containerd.grpc.v1.cri\".registry.headers]\n"}, 0,
			tree{containerdConfig: "version = 2\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\".registry]\n    config_path = \"/etc/containerd/certs.d\" # here\n    [plugins.\"io.containerd.grpc.v1.cri\".registry.headers]\n"}},
		{"single quotes", tree{containerdConfig: "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = ''\n"}, 0,
			tree{containerdConfig: "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = \"/etc/containerd/certs.d\"\n"}},
		{"a table without the key", tree{containerdConfig: "version = 2\n [plugins.\"io.containerd.grpc.v1.cri\".registry] # r\n   x = 1\n"}, 0,
			tree{containerdConfig: "version = 2\n [plugins.\"io.containerd.grpc.v1.cri\".registry] # r\n   config_path = \"/etc/containerd/certs.d\"\n   x = 1\n"}},
		{"CRLF", tree{containerdConfig: "version = 2\r\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\r\nx = 1\r\n"}, 0,
			tree{containerdConfig: "version = 2\r\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\r\n  config_path = \"/etc/containerd/certs.d\"\r\nx = 1\r\n"}},
		{"a folder of its own", tree{containerdConfig: "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/srv/certs\"\n"}, 0,
			tree{containerdConfig: "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/srv/certs\"\n", "/srv/certs/_default/hosts.toml": hostsTOML}},
		{"two folders", tree{containerdConfig: "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/a:/b\"\n"}, 0,
			tree{"/b/_default/hosts.toml": hostsTOML}},
		{"Docker's folder goes on to count", tree{containerdConfig: "version = 3\n", "/etc/docker/certs.d/r.corp/ca.crt": "x"}, 0,
			tree{containerdConfig: "version = 3\n\n" + strings.Replace(criV3, "/etc/containerd", "/etc/docker/certs.d:/etc/containerd", 1), defaults: hostsTOML}},
		{"set by an import", tree{containerdConfig: "version = 2\nimports = [\"conf.d/*.toml\"]\n", "/etc/containerd/conf.d/a.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/c\"\n"}, 0,
			tree{containerdConfig: "version = 2\nimports = [\"conf.d/*.toml\"]\n", "/c/_default/hosts.toml": hostsTOML}},
		{"CRI switched off", tree{containerdConfig: "disabled_plugins = [\"cri\"]\n"}, 0, tree{containerdConfig: "disabled_plugins = [\"cri\"]\n", defaults: hostsTOML}},
		{"auth in the old style may stay", tree{containerdConfig: "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"r\".auth]\nusername = \"u\"\n"}, 0,
			tree{containerdConfig: "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"r\".auth]\nusername = \"u\"\n\n" + criV2}},
		{"a hosts.toml of ours, older", tree{defaults: marker + "[host.\"http://127.0.0.1:1\"]\n", containerdConfig: "version = 2\n"}, 0, tree{defaults: hostsTOML}},
		{"somebody's hosts.toml that names us", tree{defaults: "[host.\"http://127.0.0.1:65001\"]\n"}, 0, tree{defaults: "[host.\"http://127.0.0.1:65001\"]\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := grow(t, c.before)
			opts.ContainerdMajor = c.major
			before := look(t, opts.Root)
			p, err := NewPlan(Containerd, opts)
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(look(t, opts.Root), before) {
				t.Error("a plan changed something")
			}
			if err := p.Apply(); err != nil {
				t.Fatal(err)
			}
			for path, want := range c.want {
				if got, err := os.ReadFile(filepath.Join(opts.Root, path)); string(got) != want {
					t.Errorf("%s:\n%s\nwant:\n%s%v", path, got, want, err)
				}
			}
			after := look(t, opts.Root)
			if again := apply(t, Containerd, opts); len(again.Changes) != 0 || !maps.Equal(look(t, opts.Root), after) {
				t.Errorf("a second setup changes\n%s", again.Diff())
			}
			if _, err := Undo(opts); err != nil {
				t.Fatal(err)
			}
			if got := look(t, opts.Root); !maps.Equal(got, before) {
				t.Errorf("undo left\n%v\nwas\n%v", got, before)
			}
		})
	}
}

func TestForeignFilesAreRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		kind   Kind
		before tree
		says   string // what to do about it
	}{
		{"hosts.toml", Containerd, tree{containerdConfig: "version = 2\n", defaults: "server = \"https://x\"\n"}, "[host.\"http://127.0.0.1:65001\"]"},
		{"Docker's hosts.toml", Docker, tree{dockerCerts + "/_default/hosts.toml": "x = 1"}, "[host."},
		{"mirrors in the old style", Containerd, tree{containerdConfig: "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = [\"https://x\"]\n"}, "registry.mirrors"},
		{"tls in the old style", Containerd, tree{containerdConfig: "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"r\".tls]\nca_file = \"x\"\n"}, "tls"},
		{"version 1", Containerd, tree{containerdConfig: "root = \"/x\"\n"}, "config migrate"},
		{"inline table", Containerd, tree{containerdConfig: "version = 2\nplugins = {\"io.containerd.grpc.v1.cri\" = {registry = {}}}\n"}, "by hand"},
		{"dotted keys", Containerd, tree{containerdConfig: "version = 2\n[plugins]\n\"io.containerd.grpc.v1.cri\".registry.x = 1\n"}, "by hand"},
		{"a header inside a string", Containerd, tree{containerdConfig: "version = 2\nx = \"\"\"\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n\"\"\"\n"}, "by hand"},
		{"no TOML", Containerd, tree{containerdConfig: "version = = 2"}, "cannot be read"},
		{"no JSON", Docker, tree{dockerConfig: "{,}"}, mirrorsKey},
		{"empty", Docker, tree{dockerConfig: " \n"}, "delete it"},
		{"not an object", Docker, tree{dockerConfig: "[]"}, mirrorsKey},
		{"null", Docker, tree{dockerConfig: "null"}, mirrorsKey},
		{"two documents", Docker, tree{dockerConfig: "{}{}"}, mirrorsKey},
		{"mirrors that are text", Docker, tree{dockerConfig: `{"registry-mirrors": "x"}`}, mirrorsKey},
		{"mirrors that are numbers", Docker, tree{dockerConfig: `{"registry-mirrors": [1]}`}, mirrorsKey},
		{"mirrors twice", Docker, tree{dockerConfig: `{"registry-mirrors": [], "registry-mirrors": []}`}, mirrorsKey},
		{"cut short", Docker, tree{dockerConfig: `{"registry-mirrors": ["x"`}, mirrorsKey},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := grow(t, c.before)
			before := look(t, opts.Root)
			_, err := NewPlan(c.kind, opts)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
			if !maps.Equal(look(t, opts.Root), before) {
				t.Error("something changed")
			}
		})
	}
	opts := grow(t, tree{"/etc/containerd/real.toml": "version = 2\n"})
	if err := os.Symlink("real.toml", filepath.Join(opts.Root, containerdConfig)); err != nil {
		t.Fatal(err)
	}
	if _, err := NewPlan(Containerd, opts); !errors.Is(err, ErrForeign) {
		t.Errorf("a link: %v", err)
	}
	if _, err := NewPlan("podman", opts); err == nil {
		t.Error("an unknown program")
	}
}

func TestDockerMirrors(t *testing.T) {
	const url = `"http://127.0.0.1:65004"`
	for before, want := range map[string]string{
		"{}":                           "{\n  \"registry-mirrors\": [" + url + "]\n}",
		"{\n}\n":                       "{\n  \"registry-mirrors\": [" + url + "]\n\n}\n",
		`{"z": 1, "a": {"b": [1.50]}}`: "{\n  \"registry-mirrors\": [" + url + `],"z": 1, "a": {"b": [1.50]}}`,
		`{"registry-mirrors": []}`:     `{"registry-mirrors": [` + url + `]}`,
		`{"x":1,"registry-mirrors":["https://m"],"y":2}`:   `{"x":1,"registry-mirrors":[` + url + `, "https://m"],"y":2}`,
		`{"registry-mirrors": ["http://127.0.0.1:65004"]}`: `{"registry-mirrors": ["http://127.0.0.1:65004"]}`,
		`{"a": {"registry-mirrors": ["x"]}}`:               "{\n  \"registry-mirrors\": [" + url + `],"a": {"registry-mirrors": ["x"]}}`,
	} {
		opts := grow(t, tree{dockerConfig: before})
		apply(t, Docker, opts)
		if got, err := os.ReadFile(filepath.Join(opts.Root, dockerConfig)); string(got) != want {
			t.Errorf("%s became\n%s\nwant\n%s\n%v", before, got, want, err)
		}
		if again := apply(t, Docker, opts); len(again.Changes) != 0 {
			t.Errorf("a second setup changes\n%s", again.Diff())
		}
	}
	opts := grow(t, nil)
	apply(t, Docker, opts)
	if got, err := os.ReadFile(filepath.Join(opts.Root, dockerConfig)); string(got) != "{\n  \"registry-mirrors\": ["+url+"]\n}\n" {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := os.ReadFile(filepath.Join(opts.Root, dockerCerts, "_default/hosts.toml")); string(got) != hostsTOML {
		t.Errorf("%s, %v", got, err)
	}
}

// TestUndoRestoresAnyTree sets up and undoes on random trees, both programs
// in any order, with other options in between, and with files that appear
// beside ours.
func TestUndoRestoresAnyTree(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	choices := map[string][]string{
		containerdConfig: {"", "version = 2\n", "version = 3\n# x", "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path=\"\"\n", "disabled_plugins = [\"cri\"]"},
		defaults:         {"", marker, "[host.\"http://127.0.0.1:65001\"]\nx=1\n"},
		"/etc/containerd/certs.d/docker.io/hosts.toml": {"", "server = \"https://docker.io\""},
		dockerConfig:                        {"", "{}", "{\"registry-mirrors\":[\"https://m\"],\n\t\"a\":1}", "{\"b\":[]}\n\n"},
		"/etc/docker/certs.d/r.corp/ca.crt": {"", "pem"},
		"/etc/other":                        {"", "x"},
	}
	for i := range 60 {
		files := tree{}
		for path, texts := range choices {
			if text := texts[rng.IntN(len(texts))]; text != "" {
				files[path] = text
			}
		}
		opts := grow(t, files)
		before := look(t, opts.Root)
		kinds := []Kind{Containerd, Docker, Containerd, Docker}
		rng.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
		for _, kind := range kinds[:1+rng.IntN(4)] {
			if rng.IntN(3) == 0 {
				opts.DialTimeout = time.Duration(1+rng.IntN(5)) * time.Second
			}
			apply(t, kind, opts)
		}
		if _, err := Undo(opts); err != nil {
			t.Fatalf("tree %d: %v", i, err)
		}
		if after := look(t, opts.Root); !maps.Equal(after, before) {
			t.Fatalf("tree %d: undo left\n%v\nwas\n%v", i, after, before)
		}
		if left := entries("", opts.State); len(left) != 0 {
			t.Fatalf("tree %d: the state folder still holds %v", i, left)
		}
		if changes, err := Undo(opts); err != nil || len(changes) != 0 {
			t.Fatalf("tree %d: a second undo: %v, %v", i, changes, err)
		}
	}
}

func TestUndoKeepsOthersEdits(t *testing.T) {
	opts := grow(t, tree{containerdConfig: "version = 2\n"})
	apply(t, Containerd, opts)
	full := filepath.Join(opts.Root, containerdConfig)
	edited, err := os.ReadFile(full)
	if err != nil {
		t.Fatal(err)
	}
	edited = append(edited, "# mine\n"...)
	if err := os.WriteFile(full, edited, 0o600); err != nil {
		t.Fatal(err)
	}
	before := look(t, opts.Root)
	if _, err := Undo(opts); !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), "backup-") {
		t.Errorf("%v", err)
	}
	if !maps.Equal(look(t, opts.Root), before) {
		t.Error("a refused undo changed something")
	}
}

func TestUndoLeavesFoldersThatOthersUse(t *testing.T) {
	opts := grow(t, nil)
	apply(t, Containerd, opts)
	other := filepath.Join(opts.Root, containerdCerts, "docker.io")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Undo(opts); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(opts.Root, containerdCerts, "_default")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("our folder is still there: %v", err)
	}
}

func TestApplyRefusesWhatChangedSince(t *testing.T) {
	opts := grow(t, tree{containerdConfig: "version = 2\n"})
	p, err := NewPlan(Containerd, opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(opts.Root, containerdConfig), []byte("version = 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(); !errors.Is(err, ErrChanged) {
		t.Errorf("%v", err)
	}
}

// TestCutShort stops a setup after each of its writes, as a power cut would:
// undo must find the way back from there.
func TestCutShort(t *testing.T) {
	for writes := range 3 {
		opts := grow(t, tree{containerdConfig: "version = 2\n"})
		before := look(t, opts.Root)
		p, err := NewPlan(Containerd, opts)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Apply(); err != nil {
			t.Fatal(err)
		}
		for _, c := range p.Changes[writes:] { // as if these had not been written
			full := filepath.Join(opts.Root, c.Path)
			if c.Before == nil {
				err = os.Remove(full)
			} else {
				err = os.WriteFile(full, c.Before, 0o640)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Undo(opts); err != nil {
			t.Fatal(err)
		}
		if after := look(t, opts.Root); !maps.Equal(after, before) {
			t.Errorf("after %d writes undo left %v", writes, after)
		}
	}
}

func TestOwnerIsKept(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	opts := grow(t, tree{dockerConfig: "{}"})
	full := filepath.Join(opts.Root, dockerConfig)
	if err := errors.Join(os.Chown(full, 12, 34), os.Chmod(full, 0o604)); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		info, err := os.Stat(full)
		if err != nil {
			t.Fatal(err)
		}
		uid, gid := owner(info)
		if info.Mode().Perm() != 0o604 || uid != 12 || gid != 34 {
			t.Errorf("%v %d:%d", info.Mode(), uid, gid)
		}
	}
	apply(t, Docker, opts)
	check()
	if _, err := Undo(opts); err != nil {
		t.Fatal(err)
	}
	check()
}

func TestDiff(t *testing.T) {
	for _, c := range []struct{ before, after, want string }{
		{"a\nb\nc\nd\ne\nf\ng\nh\n", "a\nb\nc\nd\nX\ne\nf\ng\nh\n", "--- a/f\n+++ b/f\n@@ -2,6 +2,7 @@\n b\n c\n d\n+X\n e\n f\n g\n"},
		{"a", "a\nb", "--- a/f\n+++ b/f\n@@ -1,1 +1,2 @@\n-a\n\\ No newline at end of file\n+a\n+b\n\\ No newline at end of file\n"},
		{"a\n", "a\n", ""},
		{"", "x\n", "--- a/f\n+++ b/f\n@@ -0,0 +1,1 @@\n+x\n"},
	} {
		if got := unified("/f", []byte(c.before), []byte(c.after)); got != c.want {
			t.Errorf("%q → %q:\n%s\nwant\n%s", c.before, c.after, got, c.want)
		}
	}
	if got := unified("/f", nil, []byte("x\n")); !strings.HasPrefix(got, "--- /dev/null\n+++ b/f\n") {
		t.Error(got)
	}
	if got := unified("/f", []byte("x\n"), nil); !strings.Contains(got, "+++ /dev/null\n@@ -1,1 +0,0 @@\n-x\n") {
		t.Error(got)
	}
}

func FuzzAddMirror(f *testing.F) {
	f.Add([]byte(`{"registry-mirrors":["x"],"a":1}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		after, err := addMirror(raw, "http://m")
		if err != nil {
			return
		}
		if again, err := addMirror(after, "http://m"); err != nil || !bytes.Equal(again, after) {
			t.Errorf("%q → %q → %q, %v", raw, after, again, err)
		}
	})
}

func FuzzSetConfigPath(f *testing.F) {
	f.Add([]byte("version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = ''\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		config, err := parseTOML(raw)
		if err != nil || registryTable(config, criPlugin(2))["config_path"] != nil {
			return
		}
		after, err := setConfigPath(raw, 2, "/x")
		if err != nil {
			return
		}
		again, err := parseTOML(after)
		if err != nil || registryTable(again, criPlugin(2))["config_path"] != "/x" {
			t.Errorf("%q → %q, %v", raw, after, err)
		}
	})
}
