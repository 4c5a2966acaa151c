// Package ssh is the provider of metal: machines that stand already. Create
// adopts one: it logs in by SSH, puts the agent there and starts it, and the
// agent joins as the server that the machine is for. Delete takes the agent
// away again; the machine stays.
//
// A host is spoken to only when it shows the key that it was adopted with; to
// any other one nothing is sent, not even the name of the user. Which machines
// are adopted stands in a ledger in meta, since no cloud lists them, and in a
// file on the host, so that no two servers and no two fleets ever have the
// same host.
//
// Every step looks before it acts, so that a bootstrap that was cut off is
// gone on with: nothing is sent twice that arrived whole, and no token is
// drawn for an agent that has joined.
//
// Limits: Linux with a POSIX shell, sha256sum and setsid or systemd; as root,
// or as a user for whom sudo asks no password. Without systemd the agent does
// not start again by itself. A host that cannot be reached when it is deleted
// is tried for a week and forgotten then.
package ssh
