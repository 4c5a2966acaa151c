// Package tracker is a node's line to the tracker in the supernode: it says
// what the node wants and holds, and hears who else does.
//
// One loop speaks for all digests of the node, so that a thousand flights are
// one request. When no supernode answers it says so at once and goes on
// trying: who waits for neighbours then looks elsewhere.
package tracker
