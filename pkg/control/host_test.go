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
	logs  []*shoalv1.SendLogRequest
}

func (d *listener) ReportFacts(_ context.Context, r *connect.Request[shoalv1.ReportFactsRequest]) (*connect.Response[shoalv1.ReportFactsResponse], error) {
	d.facts <- r.Msg.Facts
	return connect.NewResponse(&shoalv1.ReportFactsResponse{}), nil
}

func TestReportFacts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := newWire(nil)
		if err := l.ReportFacts(t.Context(), &shoalv1.Facts{}); err == nil {
			t.Error("nobody answered, and there was no error")
		}
		d := &listener{facts: make(chan *shoalv1.Facts, 1)}
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

func (d *listener) ReportContainers(_ context.Context, r *connect.Request[shoalv1.ReportContainersRequest]) (*connect.Response[shoalv1.ReportContainersResponse], error) {
	d.facts <- &shoalv1.Facts{Hostname: r.Msg.Containers[0].Id}
	return connect.NewResponse(&shoalv1.ReportContainersResponse{}), nil
}

// SendLog wants no more after the second piece.
func (d *listener) SendLog(_ context.Context, r *connect.Request[shoalv1.SendLogRequest]) (*connect.Response[shoalv1.SendLogResponse], error) {
	d.logs = append(d.logs, r.Msg)
	return connect.NewResponse(&shoalv1.SendLogResponse{Stop: len(d.logs) > 1}), nil
}

func TestContainersAndLogsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := newWire(nil)
		if _, err := l.SendLog(t.Context(), &shoalv1.SendLogRequest{}); err == nil {
			t.Error("nobody answered, and there was no error")
		}
		d := &listener{facts: make(chan *shoalv1.Facts, 1)}
		_, handler := shoalv1connect.NewHostServiceHandler(d)
		w.set("b", http.Handler(handler))
		report := &shoalv1.ReportContainersRequest{Containers: []*shoalv1.ContainerStatus{{Id: "web-1"}}}
		if err := l.ReportContainers(t.Context(), report); err != nil {
			t.Fatal(err)
		}
		if got := <-d.facts; got.Hostname != "web-1" {
			t.Errorf("told %v", got)
		}
		for i, want := range []bool{false, true} {
			stop, err := l.SendLog(t.Context(), &shoalv1.SendLogRequest{OrderId: "o", Data: []byte("line\n")})
			if err != nil || stop != want {
				t.Errorf("piece %d: stop %v, %v", i, stop, err)
			}
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
