//go:build !linux

package swarm

import (
	"net"
	"syscall"
)

func limitUnsent(*net.TCPConn) {}

func setLowat(syscall.RawConn, int) {}

func rawSocket(net.Conn) syscall.RawConn { return nil }
