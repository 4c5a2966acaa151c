// Package swarm is the piece exchange between hosts: pieces of blobs as
// HTTP/1.1 requests over TLS 1.3, both ends known by their node identity.
//
// A Server gives away what a Content holds, whole or still growing, through a
// bounded number of upload slots. An Exchange fills a Sink from many peers at
// a time. What to ask whom for and what a seed hands out next is decided in
// the package policy below, which the simulator runs too.
//
//	POST /swarm/v1/have                 frames both ways: which blobs to follow;
//	                                    what is held of them, then what is gained
//	GET  /swarm/v1/{digest}/map         frames: signed batches, then the signed map
//	GET  /swarm/v1/{digest}/piece/{i}   the bytes of piece i
//	GET  /swarm/v1/{digest}/next        the bytes of a piece that the seed chooses
//
// Every request may carry Shoal-Class; next carries Shoal-Want, and its answer
// Shoal-Piece. 404 means that it is not held, 503 with Retry-After-Ms that the
// queue is full, 204 that every wanted piece has left the seed once.
package swarm
