package control

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"

	"connectrpc.com/connect"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// listener is a supernode's service for what hosts tell.
type listener struct {
	shoalv1connect.UnimplementedHostServiceHandler
	facts chan *shoalv1.Facts
}

func (d listener) ReportFacts(_ context.Context, r *connect.Request[shoalv1.ReportFactsRequest]) (*connect.Response[shoalv1.ReportFactsResponse], error) {
	d.facts <- r.Msg.Facts
	return connect.NewResponse(&shoalv1.ReportFactsResponse{}), nil
}

func TestReportFacts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := newWire(nil)
		if err := l.ReportFacts(t.Context(), &shoalv1.Facts{}); err == nil {
			t.Error("nobody answered, and there was no error")
		}
		d := listener{facts: make(chan *shoalv1.Facts, 1)}
		_, handler := shoalv1connect.NewHostServiceHandler(d)
		w.set("b", http.Handler(handler))
		if err := l.ReportFacts(t.Context(), &shoalv1.Facts{Hostname: "h"}); err != nil {
			t.Fatal(err)
		}
		if got := <-d.facts; got.Hostname != "h" {
			t.Errorf("told %v", got)
		}
	})
}

// Who waits for the line hears of each time that it opens.
func TestOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := newWire(nil)
		first := l.Opened()
		a := newOffice()
		w.set("a", a.handler())
		watching(t, l)
		line := <-a.opened
		<-first
		second := l.Opened()
		synctest.Wait()
		select {
		case <-second:
			t.Error("it opened once, and was said to have opened twice")
		default:
		}
		close(line)
		<-a.opened
		<-second
	})
}
