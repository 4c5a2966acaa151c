// Package telemetry is the listener on which a program shows its insides:
// metrics for Prometheus, profiles for its developers, and whether it lives
// and is ready. It is open on loopback; elsewhere it asks for a bearer token.
package telemetry

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// headersWithin bounds how long a client may take to send its headers.
const headersWithin = 5 * time.Second

// Alive answers a health check: whoever can answer at all is alive.
func Alive(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, "ok\n") //nolint:errcheck // whoever asked has left
}

// Server answers /metrics, /debug/pprof, /healthz and /readyz. With a
// tokenFile the first two ask for the bearer token that is its first line; the
// file is read now.
func Server(metrics prometheus.Gatherer, tokenFile string, ready http.HandlerFunc) (*http.Server, error) {
	closed := http.NewServeMux()
	closed.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	closed.HandleFunc("GET /debug/pprof/", pprof.Index)
	closed.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	closed.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	var handler http.Handler = closed
	if tokenFile != "" {
		raw, err := os.ReadFile(tokenFile)
		if err != nil {
			return nil, fmt.Errorf("read the token of the metrics listener: %w", err)
		}
		token, _, _ := strings.Cut(string(raw), "\n")
		if token = strings.TrimSpace(token); token == "" {
			return nil, fmt.Errorf("the token of the metrics listener: %s is empty", tokenFile)
		}
		handler = guarded(closed, token)
	}
	mux := http.NewServeMux()
	mux.Handle("/", handler)
	mux.HandleFunc("GET /healthz", Alive)
	mux.HandleFunc("GET /readyz", ready)
	return &http.Server{Handler: mux, ReadHeaderTimeout: headersWithin, MaxHeaderBytes: 16 << 10}, nil
}

func guarded(next http.Handler, token string) http.Handler {
	want := sha256.Sum256([]byte("Bearer " + token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := sha256.Sum256([]byte(r.Header.Get("Authorization")))
		if subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "this listener asks for its bearer token", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}
