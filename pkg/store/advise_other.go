//go:build !linux

package store

import "os"

func noReadAhead(*os.File) {}
