package profile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"

	"github.com/shoalproject/shoal/pkg/durable"
)

// maxMemory bounds the file of a FileMemory, in bytes.
const maxMemory = 1 << 20

// FileMemory is a Memory in a file. It belongs to whoever runs; one run at a
// time.
type FileMemory struct {
	path  string
	steps map[string]remembered // by name
}

type remembered struct {
	Kind    string `json:"kind"`
	Version int32  `json:"version"`
}

// OpenMemory reads the file at path, which need not exist yet.
func OpenMemory(path string) (*FileMemory, error) {
	m := &FileMemory{path: path, steps: map[string]remembered{}}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil && info.Size() > maxMemory {
		err = fmt.Errorf("it has %d bytes", info.Size())
	}
	var raw []byte
	if err == nil {
		raw, err = os.ReadFile(path)
	}
	if err == nil {
		err = json.Unmarshal(raw, &m.steps)
	}
	if err != nil {
		return nil, fmt.Errorf("read which steps were applied: %w; remove %s, then every step is looked at anew", err, path)
	}
	return m, nil
}

// Applied implements Memory.
func (m *FileMemory) Applied(s Planned) int32 {
	if r := m.steps[s.Name]; r.Kind == s.Kind {
		return r.Version
	}
	return 0
}

// Remember implements Memory. It is on the disk when it returns.
func (m *FileMemory) Remember(s Planned) error {
	next := maps.Clone(m.steps)
	if len(next) >= maxSteps { // names of older profiles
		clear(next)
	}
	next[s.Name] = remembered{s.Kind, s.Version}
	raw, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the steps: %w", err)
	}
	if err := durable.WriteFile(m.path, raw, 0o600); err != nil {
		return err
	}
	m.steps = next
	return nil
}
