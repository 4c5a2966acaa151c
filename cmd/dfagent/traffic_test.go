package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalproject/shoal/pkg/fetch"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// TestTrafficIsToldAgainUntilItIsHeard: the sums are told each minute when
// they grew, what was lost with the next, and the last ones at the stop.
func TestTrafficIsToldAgainUntilItIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var totals fetch.Totals // guarded by mu, as the next two
		var told []string
		lost := false
		report := newTraffic(func() fetch.Totals {
			mu.Lock()
			defer mu.Unlock()
			return totals
		})
		send := func(ctx context.Context, r *shoalv1.ReportTrafficRequest) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if lost {
				return errors.New("no supernode")
			}
			if r.Instance == "" || r.Instance != report.instance {
				t.Errorf("the instance is %q", r.Instance)
			}
			told = append(told, fmt.Sprint(r.PeerBytes, r.SupernodeBytes, r.UpstreamBytes, r.LocalBytes))
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { report.run(ctx, send, slog.New(slog.DiscardHandler)); close(done) }()
		for _, step := range []struct {
			totals fetch.Totals
			lost   bool
			want   string
		}{
			{want: "[]"},
			{totals: fetch.Totals{Peer: 5, Local: 1}, want: "[5 0 0 1]"},
			{totals: fetch.Totals{Peer: 5, Local: 1}, want: "[5 0 0 1]"},
			{totals: fetch.Totals{Peer: 7, Local: 1}, lost: true, want: "[5 0 0 1]"},
			{totals: fetch.Totals{Peer: 7, Local: 1}, want: "[5 0 0 1 7 0 0 1]"},
		} {
			mu.Lock()
			totals, lost = step.totals, step.lost
			mu.Unlock()
			<-time.After(trafficEvery + time.Millisecond)
			synctest.Wait()
			if got := fmt.Sprint(told); got != step.want {
				t.Errorf("told %s, want %s", got, step.want)
			}
		}
		mu.Lock()
		totals = fetch.Totals{Peer: 7, Supernode: 2, Upstream: 3, Local: 1}
		mu.Unlock()
		cancel()
		<-done
		if got := told[len(told)-1]; got != "7 2 3 1" {
			t.Errorf("at the stop %s was told", got)
		}
	})
}
