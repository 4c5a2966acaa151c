// Package blob is the word book of the project: digests, descriptors, byte
// ranges, pieces, piece maps, peers. Every room speaks these words, so the
// package imports nothing of ours and does no I/O.
//
// Sources: OCI image-spec 1.1 (digest, descriptor) and BEP 52 (the SHA-256
// Merkle piece layers that a piece map carries).
package blob
