// Package proto holds the wire types (Protocol Buffers, Connect RPC). The Go
// code under shoal/v1 is generated: change the .proto files and run
// `make gen`.
package proto
