package main

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestClockFollowsTheSupernode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct{ ahead, want time.Duration }{
			{0, 0},
			{30 * time.Second, 0},
			{-59 * time.Second, 0},
			{10 * time.Minute, 10 * time.Minute},
			{-10 * time.Minute, -10 * time.Minute},
		} {
			var k clock
			if got := k.set(time.Now().Add(c.ahead)); got != c.want {
				t.Errorf("a supernode that is ahead by %s: corrected by %s, want %s", c.ahead, got, c.want)
			}
			if got := time.Until(k.Now()); got != c.want {
				t.Errorf("a supernode that is ahead by %s: the time differs by %s, want %s", c.ahead, got, c.want)
			}
		}
	})
}
