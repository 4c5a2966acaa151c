// Package identity says who a node is and who belongs to the house.
//
// A node is its Ed25519 key. The same key makes its libp2p peer ID, signs its
// piece maps and tag records, and stands behind the certificate of its piece
// listener (libp2p's TLS identity, libp2p specs/tls/tls.md), so one identity
// serves both roads. A host's address or name proves nothing.
//
// Belonging is a membership: a statement about one peer ID, signed with an
// IDC's member key, good for 24 hours, carried in that one certificate as an
// extension. A connection outlives a revocation and an expiry, so both are
// looked at again for each request (Node.FromRequest), and a revocation also
// closes the connections that are open (Node.Listener).
//
// The package also keeps the supernode's own certificate authority, which
// browsers and container clients meet, and the proof by which a node joins.
package identity
