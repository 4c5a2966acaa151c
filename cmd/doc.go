// Package cmd holds the three programs. What each of them says and does is
// written down in its testdata as scripts, which the test of this package runs
// against the real programs on loopback.
package cmd
