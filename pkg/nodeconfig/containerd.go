package nodeconfig

import (
	"fmt"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

const (
	containerdConfig = "/etc/containerd/config.toml"
	containerdCerts  = "/etc/containerd/certs.d"
	dockerCerts      = "/etc/docker/certs.d"
)

// criPlugin is the plugin that holds registry.config_path, by the version of
// the file's format. containerd 1.x writes 2, containerd 2.x 3 and later.
func criPlugin(version int64) string {
	if version <= 2 {
		return "io.containerd.grpc.v1.cri"
	}
	return "io.containerd.cri.v1.images"
}

func (p *Plan) containerd() error {
	raw, err := read(p.opts.Root, containerdConfig)
	if err != nil {
		return err
	}
	if raw == nil {
		version := int64(2) // containerd 2.x reads it as well
		if p.opts.ContainerdMajor >= 2 {
			version = 3
		}
		value := p.searchPath(version)
		p.want(containerdConfig, nil, fmt.Appendf(nil, "%sversion = %d\n\n%s", marker, version, section(version, value)))
		p.note("restart containerd for it to read %s", containerdConfig)
		return p.hosts(lastRoot(value))
	}
	return p.editContainerd(raw)
}

// searchPath is the config_path to set. Docker's folder, which containerd 2
// reads unless told otherwise, stays in front: what it says of a registry
// must go on to count.
func (p *Plan) searchPath(version int64) string {
	others := func(name string) bool { return name != "_default" }
	if version >= 3 && slices.ContainsFunc(entries(p.opts.Root, dockerCerts), others) {
		return dockerCerts + ":" + containerdCerts
	}
	return containerdCerts
}

// lastRoot is where the settings for every other registry belong: containerd
// takes the first folder that fits, "_default" included.
func lastRoot(configPath string) string {
	roots := filepath.SplitList(configPath)
	return roots[len(roots)-1]
}

func section(version int64, value string) string {
	return fmt.Sprintf("[plugins.%q.registry]\n  config_path = %q\n", criPlugin(version), value)
}

func (p *Plan) editContainerd(raw []byte) error {
	config, err := parseTOML(raw)
	if err != nil {
		return fmt.Errorf("%s cannot be read, and so not be edited: %w", containerdConfig, err)
	}
	version, _ := config["version"].(int64)
	registry := registryTable(config, criPlugin(version))
	if version < 2 {
		return p.oldContainerd(config)
	}
	if imported := p.importedPath(config, version); imported != "" {
		p.note("config_path comes from a file that %s imports", containerdConfig)
		return p.hosts(lastRoot(imported))
	}
	if set, _ := registry["config_path"].(string); set != "" {
		return p.hosts(lastRoot(set))
	}
	value := p.searchPath(version)
	if old := oldStyle(registry); old != "" {
		return fmt.Errorf("%w: %s configures registries by %s, which containerd refuses beside config_path. Move them to %s, then set\n%s",
			ErrForeign, containerdConfig, old, containerdCerts, section(version, value))
	}
	after, err := setConfigPath(raw, version, value)
	if err != nil {
		return err
	}
	p.want(containerdConfig, raw, after)
	p.note("restart containerd for it to read %s", containerdConfig)
	return p.hosts(lastRoot(value))
}

// oldContainerd is for files without a version, as Docker's packages ship
// them: with the CRI plugin switched off there is nothing to set.
func (p *Plan) oldContainerd(config map[string]any) error {
	if disabled, _ := config["disabled_plugins"].([]any); slices.Contains(disabled, any("cri")) {
		p.note("%s switches the CRI plugin off; only ctr --hosts-dir %s and Docker use the mirror", containerdConfig, containerdCerts)
		return p.hosts(containerdCerts)
	}
	return fmt.Errorf("%w: %s is of version 1. Run `containerd config migrate`, or add at its top \"version = 2\" and\n%s",
		ErrForeign, containerdConfig, section(2, containerdCerts))
}

// importedPath is the config_path that an imported file sets, if any does.
func (p *Plan) importedPath(config map[string]any, version int64) string {
	patterns, _ := config["imports"].([]any)
	found := ""
	for _, pattern := range patterns {
		text, _ := pattern.(string)
		if text != "" && !path.IsAbs(text) {
			text = path.Join(path.Dir(containerdConfig), text)
		}
		files, err := filepath.Glob(filepath.Join(p.opts.Root, text))
		if text == "" || err != nil {
			continue // containerd itself will complain
		}
		for _, file := range files {
			rel, err := filepath.Rel(p.opts.Root, file)
			if err != nil {
				continue
			}
			raw, err := read(p.opts.Root, "/"+rel)
			if err != nil {
				continue
			}
			imported, err := parseTOML(raw)
			if err != nil {
				continue
			}
			own, ok := imported["version"].(int64)
			if !ok {
				own = version
			}
			if set, _ := registryTable(imported, criPlugin(own))["config_path"].(string); set != "" {
				found = set
			}
		}
	}
	return found
}

func parseTOML(raw []byte) (map[string]any, error) {
	out := make(map[string]any)
	err := toml.Unmarshal(raw, &out)
	return out, err
}

func registryTable(config map[string]any, plugin string) map[string]any {
	plugins, _ := config["plugins"].(map[string]any)
	cri, _ := plugins[plugin].(map[string]any)
	registry, _ := cri["registry"].(map[string]any)
	return registry
}

// oldStyle names the deprecated settings that exclude config_path.
func oldStyle(registry map[string]any) string {
	if mirrors, _ := registry["mirrors"].(map[string]any); len(mirrors) > 0 {
		return "registry.mirrors"
	}
	configs, _ := registry["configs"].(map[string]any)
	for _, c := range configs {
		if settings, _ := c.(map[string]any); settings["tls"] != nil {
			return "registry.configs.….tls"
		}
	}
	return ""
}

var (
	tableHeader = regexp.MustCompile(`^\s*\[([^\[\]]+)\]\s*(#.*)?\r?\n?$`)
	anyHeader   = regexp.MustCompile(`^\s*\[`)
	emptyPath   = regexp.MustCompile(`^(\s*config_path\s*=\s*)(?:""|'')(\s*(?:#.*)?\r?\n?)$`)
)

// setConfigPath puts config_path into the text and leaves every other byte
// alone. The result is parsed and compared, so that text which only looks
// like a table (in a long string, say) is refused rather than broken.
func setConfigPath(raw []byte, version int64, value string) ([]byte, error) {
	after := insertConfigPath(string(raw), version, value)
	want, err := parseTOML(raw)
	if err != nil {
		return nil, fmt.Errorf("read %s again: %w", containerdConfig, err)
	}
	put(want, value, "plugins", criPlugin(version), "registry", "config_path")
	got, err := parseTOML([]byte(after))
	if err != nil || !reflect.DeepEqual(got, want) {
		return nil, fmt.Errorf("%w: %s is written in a way that cannot be edited safely. Set by hand\n%s",
			ErrForeign, containerdConfig, section(version, value))
	}
	return []byte(after), nil
}

func insertConfigPath(text string, version int64, value string) string {
	header := "plugins." + criPlugin(version) + ".registry"
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		m := tableHeader.FindStringSubmatch(line)
		if m == nil || plainHeader(m[1]) != header {
			continue
		}
		for j := i + 1; j < len(lines) && !anyHeader.MatchString(lines[j]); j++ {
			if m := emptyPath.FindStringSubmatch(lines[j]); m != nil {
				lines[j] = m[1] + fmt.Sprintf("%q", value) + m[2]
				return strings.Join(lines, "")
			}
		}
		indent := line[:strings.Index(line, "[")] + "  "
		ending := "\n"
		if strings.HasSuffix(line, "\r\n") {
			ending = "\r\n"
		}
		if !strings.HasSuffix(line, "\n") {
			lines[i] += ending
		}
		lines[i] += indent + fmt.Sprintf("config_path = %q", value) + ending
		return strings.Join(lines, "")
	}
	gap := "\n"
	if text != "" && !strings.HasSuffix(text, "\n") {
		gap = "\n\n"
	}
	return text + gap + section(version, value)
}

// plainHeader is a table's name without quotes and blanks. Names are told
// apart well enough for finding the place: the result is checked.
func plainHeader(s string) string {
	return strings.NewReplacer(`"`, "", "'", "", " ", "", "\t", "").Replace(s)
}

// put sets a value in nested tables.
func put(config map[string]any, value string, keys ...string) {
	for _, k := range keys[:len(keys)-1] {
		next, ok := config[k].(map[string]any)
		if !ok {
			next = make(map[string]any)
			config[k] = next
		}
		config = next
	}
	config[keys[len(keys)-1]] = value
}
