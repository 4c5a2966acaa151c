// Package e2e tests the real programs with real clients: one supernode and
// eight agents as separate processes, each in a network namespace of its own,
// and containerd, Docker, skopeo and go-containerregistry beside them. What is
// claimed is asserted by counters: those of the links and those of the
// programs.
//
// Needs root, `make build` and scripts/install-parts test; a test that finds
// something missing reports itself as NOT RUN.
package e2e
