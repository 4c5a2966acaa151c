package engine_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/engine"
)

func good() engine.Spec {
	return engine.Spec{
		ID: "web-1.a_b", Image: "r.example.com/team/app", Digest: digest.FromString("manifest"),
		Args: []string{"serve"}, Env: []string{"A=b", "B="}, CPUMilli: 500, MemoryBytes: 64 << 20, Ports: []int{80},
	}
}

func TestSpecIsChecked(t *testing.T) {
	if err := good().Check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*engine.Spec){
		"no ID":                  func(s *engine.Spec) { s.ID = "" },
		"an ID with a path":      func(s *engine.Spec) { s.ID = "../x" },
		"an ID that is a flag":   func(s *engine.Spec) { s.ID = "-x" },
		"a long ID":              func(s *engine.Spec) { s.ID = strings.Repeat("x", 64) },
		"no image":               func(s *engine.Spec) { s.Image = "" },
		"no digest":              func(s *engine.Spec) { s.Digest = "" },
		"a digest that is none":  func(s *engine.Spec) { s.Digest = "sha256:../x" },
		"an env without a value": func(s *engine.Spec) { s.Env = []string{"hunter2"} },
		"an env without a name":  func(s *engine.Spec) { s.Env = []string{"=hunter2"} },
		"a NUL byte":             func(s *engine.Spec) { s.Args = []string{"a\x00b"} },
		"many arguments":         func(s *engine.Spec) { s.Args = make([]string, 2000) },
		"long arguments":         func(s *engine.Spec) { s.Args = []string{strings.Repeat("x", 1<<20)} },
		"little memory":          func(s *engine.Spec) { s.MemoryBytes = 1 << 20 },
		"negative memory":        func(s *engine.Spec) { s.MemoryBytes = -1 },
		"little CPU":             func(s *engine.Spec) { s.CPUMilli = 1 },
		"negative CPU":           func(s *engine.Spec) { s.CPUMilli = -500 },
		"no port":                func(s *engine.Spec) { s.Ports = []int{0} },
	} {
		s := good()
		spoil(&s)
		err := s.Check()
		if !errors.Is(err, engine.ErrSpec) {
			t.Errorf("%s: %v, want %v", name, err, engine.ErrSpec)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error tells a secret: %v", name, err)
		}
	}
}

func TestHashTellsSpecsApart(t *testing.T) {
	seen := map[string]string{}
	for name, change := range map[string]func(*engine.Spec){
		"nothing": func(*engine.Spec) {},
		"image":   func(s *engine.Spec) { s.Image += "2" },
		"digest":  func(s *engine.Spec) { s.Digest = digest.FromString("other") },
		"args":    func(s *engine.Spec) { s.Args = []string{"serve", ""} },
		"env":     func(s *engine.Spec) { s.Env = []string{"A=b"} },
		"cpu":     func(s *engine.Spec) { s.CPUMilli++ },
		"memory":  func(s *engine.Spec) { s.MemoryBytes++ },
		"ports":   func(s *engine.Spec) { s.Ports = nil },
	} {
		s := good()
		change(&s)
		if other, ok := seen[s.Hash()]; ok {
			t.Errorf("%s and %s have one hash", name, other)
		}
		seen[s.Hash()] = name
	}
	if a, b := good(), good(); a.Hash() != b.Hash() {
		t.Error("the hash changes by itself")
	}
}
