//go:build !linux

package profile

import "errors"

// Synchronised reports whether the kernel's clock is kept by somebody.
func Synchronised() (bool, error) {
	return false, errors.New("it can be asked on Linux only")
}
