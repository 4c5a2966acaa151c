// Package store keeps blobs on this host's disk: whole ones, and growing ones
// whose pieces arrive in any order. It is where bytes are verified before
// anybody sees them:
//
//   - a neighbour is given only pieces that match a signed hash, or pieces of
//     a blob whose whole digest was verified;
//   - a local reader may follow a growing blob, but its last piece waits until
//     the whole digest is verified, so that a client never ends up with a
//     complete blob that is wrong;
//   - a file gets its final name only after its digest was verified and its
//     bytes were synced.
//
// The files are the truth and the index (bbolt) is a memory of it: what the
// index says of a partial blob is hashed again before it is believed, a file
// that it doesn't know is taken in only after its digest was verified, and an
// entry without a file is dropped. So the index may lag behind by a second,
// and neither kill -9 nor a power cut can make a wrong byte look right.
//
// No piece is ever held in memory: bytes pass through pooled 64 KiB buffers.
//
// Layout of the folder (0700), owned by one process at a time:
//
//	blobs/sha256/ab/abcd…    complete blobs
//	partial/sha256-abcd…     growing blobs, sparse, at full length
//	index.db                 sizes, access times, leases, piece hashes, maps
package store
