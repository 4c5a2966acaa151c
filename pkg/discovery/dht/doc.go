// Package dht finds neighbours when no supernode answers. It is the net below
// the tracker: a private go-libp2p host with a kad-dht on it, over which a
// node announces what it holds and asks others what they hold.
//
// Three gates stand in front of it. The private network's key (PSK) keeps
// strangers from speaking at all. The peer ID is proven by TLS. A signed
// membership statement, exchanged on /shoal/member/1 before any other
// protocol is spoken, keeps out who has the PSK and no membership; who fails
// it is disconnected and never enters the routing table. DHT streams pass the
// same gate, in both directions.
//
// A provider key is HMAC-SHA256(secret, kind, name), never a bare digest, so
// who does not know the secret cannot look a digest up. A provider record
// lasts an hour; a digest is announced only while fewer than 32 holders are
// found. What a holder has (piece address, size, bitmap) is asked of the
// holder itself, on /shoal/holds/1, which may refuse who may not read; tag
// records, signed, on /shoal/tags/1.
//
// The host is put together from go-libp2p's parts rather than by
// libp2p.New: TCP, TLS and yamux only. QUIC, WebRTC, WebSocket, relay, NAT
// mapping, AutoNAT, mDNS, ping and metrics are not switched off but absent.
//
// Measured (linux/amd64, go1.26): a started host adds 2.5 MB to a process's
// resident memory and 25 goroutines; each connection adds about 90 KB of heap
// and stack and 3 to 4 goroutines. With the default of at most 64 connections,
// trimmed to 32, a host stays below 9 MB.
//
// Limits: all nodes of one data centre share one PSK, so a member who turns
// bad must be revoked; the address of a holder is an IP address, never a name;
// withdrawn provider records live on at others until they expire, and the
// holder then answers "not held".
package dht
