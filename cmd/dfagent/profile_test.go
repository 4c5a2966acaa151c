package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestTheTokenIsInNoUnit(t *testing.T) {
	for _, c := range [][2]string{
		{"serve --join T --data /d", "serve --data /d"},
		{"serve --data /d --join=T", "serve --data /d"},
		{"serve --data /d --join", "serve --data /d"},
		{"serve --rack r", "serve --rack r"},
	} {
		own, err := ownStart(strings.Fields(c[0]))
		if err != nil || !slices.Equal(own.Args, strings.Fields(c[1])) {
			t.Errorf("%s: %v, %v", c[0], own.Args, err)
		}
	}
}

// TestMirrorPlan: the step writes what 'dfagent setup' writes, once, under the
// profile's root.
func TestMirrorPlan(t *testing.T) {
	root := t.TempDir()
	a := &agent{config: config{ProfileRoot: root, Mirror: "127.0.0.1:7001", DockerMirror: "127.0.0.1:7004"}}
	for engine, file := range map[string]string{"containerd": "/etc/containerd/certs.d/_default/hosts.toml", "docker": "/etc/docker/daemon.json"} {
		plan, err := a.mirrorPlan(engine)
		if err != nil || plan.Diff == "" || !slices.Contains(plan.Files, file) {
			t.Fatalf("%s: %+v, %v", engine, plan, err)
		}
		if err := plan.Apply(); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(filepath.Join(root, file))
		if err != nil || !strings.Contains(string(raw), "http://127.0.0.1:700") {
			t.Errorf("%s: %s, %v", engine, raw, err)
		}
		if plan, err = a.mirrorPlan(engine); err != nil || plan.Diff != "" {
			t.Errorf("%s: again %+v, %v", engine, plan, err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, setupState)); err != nil {
		t.Errorf("the backups are not under the root: %v", err)
	}
	a.config.DockerMirror = ""
	if _, err := a.mirrorPlan("docker"); err == nil || !strings.Contains(err.Error(), "--docker-mirror") {
		t.Errorf("Docker without a mirror of its own: %v", err)
	}
}
