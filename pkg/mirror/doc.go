// Package mirror answers containerd and Docker on loopback as if it were
// every registry at once (`/v2/…?ns=<registry>`), and decides for each single
// request whether this reader may have this content. It exists so that image
// names stay what they are while the bytes come from neighbours.
//
// What the runtimes do to a mirror shapes it: they fall back to the origin on
// any clean error but fail on corrupt or short bodies, so an error before the
// first byte is an HTTP error, and one after it cuts the connection. Nothing
// is ever compressed. The order of checks is fixed: host, method, name,
// registry, reader; only then is anything asked of stores or network.
//
// The package writes nothing: pushes go to the supernode.
package mirror
