package registry_test

import (
	"encoding/xml"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/objects"
	"github.com/shoalproject/shoal/supernode/registry"
)

// minConformanceChecks is below what the suite runs with everything on; fewer
// mean that it did not run as configured.
const minConformanceChecks = 950

// TestConformance runs the OCI distribution-spec conformance suite, with every
// optional API and data type on but sparse manifests (an image with missing
// layers is refused). The suite exits 0 on a configuration error, so its
// results files are read.
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the conformance suite")
	}
	bin := filepath.Join(t.TempDir(), "conformance")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "github.com/opencontainers/distribution-spec/conformance")
	build.Dir = filepath.Join("testdata", "conformance")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the suite: %v\n%s", err, out)
	}
	server := httptest.NewServer(conformanceRegistry(t))
	defer server.Close()
	results := t.TempDir()
	run := exec.CommandContext(t.Context(), bin)
	run.Dir = results
	run.Env = append(os.Environ(),
		"OCI_REGISTRY="+strings.TrimPrefix(server.URL, "http://"), "OCI_TLS=disabled", "OCI_VERSION=1.1",
		"OCI_REPO1=conf/r1", "OCI_REPO2=conf/r2", "OCI_USERNAME=", "OCI_PASSWORD=", "OCI_RESULTS_DIR="+results,
		"OCI_API_BLOBS_UPLOAD_CANCEL=true", "OCI_API_BLOBS_DIGEST_HEADER=true",
		"OCI_API_MANIFESTS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_TAG_PARAM=true")
	if out, err := run.CombinedOutput(); err != nil {
		t.Errorf("the suite failed: %v\n%.4000s", err, out)
	}
	checkJunit(t, filepath.Join(results, "junit.xml"))
	checkResults(t, filepath.Join(results, "results.yaml"))
}

func conformanceRegistry(t *testing.T) *registry.Registry {
	dir := t.TempDir()
	store, err := meta.OpenBolt(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	files, err := objects.OpenFiles(filepath.Join(dir, "objects"))
	if err != nil {
		t.Fatal(err)
	}
	g, err := registry.New(t.Context(), registry.Config{Meta: store, Objects: files, Auth: anyone{}, Sign: sign})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func checkJunit(t *testing.T, path string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("the suite left no results: %v", err)
	}
	var junit struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
		Skipped  int `xml:"skipped,attr"`
		Disabled int `xml:"disabled,attr"`
		Cases    []struct {
			Name   string `xml:"name,attr"`
			Status string `xml:"status,attr"`
			Out    string `xml:"system-out"`
		} `xml:"testsuite>testcase"`
	}
	if err := xml.Unmarshal(raw, &junit); err != nil {
		t.Fatalf("junit.xml: %v", err)
	}
	t.Logf("%d checks, %d failures, %d errors, %d skipped, %d disabled", junit.Tests, junit.Failures, junit.Errors, junit.Skipped, junit.Disabled)
	if junit.Tests < minConformanceChecks || junit.Failures+junit.Errors+junit.Skipped+junit.Disabled > 0 {
		t.Errorf("%+v of at least %d checks", []int{junit.Tests, junit.Failures, junit.Errors, junit.Skipped, junit.Disabled}, minConformanceChecks)
	}
	for _, c := range junit.Cases {
		if c.Status != "passed" {
			t.Errorf("%s: %s: %.600s", c.Name, c.Status, c.Out)
		}
	}
}

// checkResults reads what the suite says it tested: all of it must be there
// and have passed.
func checkResults(t *testing.T, path string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("the suite left no results: %v", err)
	}
	var results struct {
		APIs map[string]string `yaml:"apis"`
		Data map[string]string `yaml:"data"`
	}
	if err := yaml.Unmarshal(raw, &results); err != nil {
		t.Fatalf("results.yaml: %v", err)
	}
	if len(results.APIs) < 27 || len(results.Data) < 20 {
		t.Errorf("%d APIs and %d kinds of data were tested", len(results.APIs), len(results.Data))
	}
	for name, status := range results.APIs {
		if status != "Pass" {
			t.Errorf("API %s: %s", name, status)
		}
	}
	for name, status := range results.Data {
		if status != "Pass" && name != "Sparse Manifests" {
			t.Errorf("data %s: %s", name, status)
		}
	}
}
