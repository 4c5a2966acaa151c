package store

import (
	"os"

	"golang.org/x/sys/unix"
)

// noReadAhead tells the kernel to read of a growing file what is asked for and
// nothing beyond: what lies ahead of a piece is mostly a hole, and filling
// memory with its zeros costs as much as the piece. Where it cannot be told,
// nothing is lost but that.
func noReadAhead(f *os.File) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.Fadvise(int(fd), 0, 0, unix.FADV_RANDOM) })
}
