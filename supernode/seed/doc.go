// Package seed fetches what is known at registries outside once for the whole
// data centre and serves it to the swarm, beside the supernode's own images.
//
// A digest is fetched by one flight however many nodes ask. While it arrives
// the seed signs the hashes of the pieces that are there, so that neighbours
// pass them on before the last one came; the final map is signed when the
// whole digest was verified. Nobody is told of a digest, and nobody is given a
// byte, before the registry that it belongs to said that this reader may have
// it.
package seed
