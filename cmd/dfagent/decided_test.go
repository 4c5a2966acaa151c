package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/mirror"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func TestDecisionsAreToldOnceAndNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		d := &decided{counts: map[mirror.Decision]uint64{}}
		told := map[string]uint64{}
		calls, down := 0, true
		send := func(ctx context.Context, r *shoalv1.TellPullsRequest) error {
			calls++
			if down || ctx.Err() != nil {
				return errors.New("nobody is there")
			}
			for _, p := range r.Pulls {
				told[fmt.Sprint(p.Subject, " ", p.Repository, ":", p.Reference, " ", p.Refused)] += p.Times
			}
			return nil
		}
		ended := make(chan struct{})
		go func() {
			d.tell(ctx, send, slog.New(slog.DiscardHandler))
			close(ended)
		}()
		pull := mirror.Decision{Ref: blob.Ref{Repository: "demo/app"}, Reference: "v1", Subject: "ann", From: "127.0.0.1"}
		denied := pull
		denied.Refused = true
		d.add(pull)
		d.add(pull)
		<-time.After(toldEvery + time.Second)
		synctest.Wait()
		down = false
		d.add(denied)
		<-time.After(toldEvery)
		synctest.Wait()
		if calls != 2 || told["ann demo/app:v1 false"] != 2 || told["ann demo/app:v1 true"] != 1 {
			t.Errorf("%d calls, told %v", calls, told)
		}
		<-time.After(toldEvery) // nothing new
		synctest.Wait()
		d.add(pull)
		stop()
		<-ended
		if calls != 3 || told["ann demo/app:v1 false"] != 3 {
			t.Errorf("at the end: %d calls, told %v", calls, told)
		}
	})
}

func TestDecisionsThatWaitAreBounded(t *testing.T) {
	d := &decided{counts: map[mirror.Decision]uint64{}}
	for i := range 3 * maxDecisions {
		d.add(mirror.Decision{Reference: fmt.Sprint(i), Refused: i%2 == 0})
	}
	taken := d.take()
	var total uint64
	for _, times := range taken {
		total += times
	}
	if len(taken) != maxDecisions || total != 3*maxDecisions {
		t.Errorf("%d kinds of %d decisions", len(taken), total)
	}
}
