package profile

import "golang.org/x/sys/unix"

// staUnsync is the bit by which the kernel says that nobody keeps its clock
// (STA_UNSYNC of adjtimex(2)).
const staUnsync = 0x40

// Synchronised reports whether the kernel's clock is kept by somebody.
func Synchronised() (bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return false, err
	}
	return state != unix.TIME_ERROR && t.Status&staUnsync == 0, nil
}
