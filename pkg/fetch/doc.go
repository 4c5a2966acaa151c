// Package fetch is the only place that decides where the bytes of a blob come
// from: the store, the container runtime's own content store, neighbours, the
// supernode, or the registry outside.
//
// There is one flight per digest and process. Readers join it, tail the
// growing blob and leave; the flight goes on for as long as somebody reads or
// prefetches, and a moment longer, so that an aborted range request does not
// stop it. What is there stays in the store and the next flight goes on from
// it.
//
// The rules (when to ask whom, when to go to the origin, when to give up) are
// pure functions over plain values in policy.go. Everything that touches the
// world comes in through the small interfaces of ports.go, which speak only
// pkg/blob and the standard library.
package fetch
