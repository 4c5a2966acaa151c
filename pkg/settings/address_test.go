package settings

import (
	"strings"
	"testing"
)

func TestLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true, "[::1]": true,
		"": false, "0.0.0.0": false, "10.0.0.1": false, "127.0.0.1.example.com": false, "localhost.example.com": false, "127.": false,
	} {
		if got := Loopback(host); got != want {
			t.Errorf("Loopback(%q) = %v", host, got)
		}
	}
}

func TestListen(t *testing.T) {
	for addr, want := range map[string]bool{"127.0.0.1:1": true, "localhost:1": true, "[::1]:1": true, ":1": false, "10.0.0.1:1": false} {
		if got, err := Listen("mirror", addr); got != want || err != nil {
			t.Errorf("Listen(%q) = %v, %v", addr, got, err)
		}
	}
	for _, addr := range []string{"", "8001", "host", "::1:80"} {
		if _, err := Listen("mirror", addr); err == nil || !strings.Contains(err.Error(), "--mirror") {
			t.Errorf("Listen(%q): %v, which does not name the flag", addr, err)
		}
	}
}
