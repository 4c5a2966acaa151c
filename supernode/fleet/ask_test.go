package fleet

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func ask() *shoalv1.Order {
	return &shoalv1.Order{What: &shoalv1.Order_ReadLog{ReadLog: &shoalv1.ReadLog{Container: "c"}}}
}

func line(text string) proto.Message { return &shoalv1.SendLogRequest{Data: []byte(text)} }

// next is the order that the host reads, or nil when none waits.
func next(l *Line) *shoalv1.Order {
	select {
	case o := <-l.Orders():
		return o
	default:
		return nil
	}
}

func TestAnswersComeInOrderUpToTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New()
		l := connect(t, f, Host{PeerID: "p"})
		go func() {
			o := <-l.Orders()
			for i, text := range []string{"a", "b", "c"} {
				if !f.Answer(t.Context(), "p", o.Id, line(text), i == 2) {
					t.Errorf("%q was not taken", text)
				}
			}
			if f.Answer(t.Context(), "p", o.Id, line("d"), true) {
				t.Error("an answer after the last was taken")
			}
		}()
		var got []string
		for m, err := range f.Ask(t.Context(), "p", ask()) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(m.(*shoalv1.SendLogRequest).Data))
		}
		synctest.Wait()
		if !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("answers %q", got)
		}
		if o := next(l); o != nil {
			t.Errorf("an order that was answered is followed by %v", o)
		}
	})
}

func TestAnOrderIsCancelledWhenNobodyListens(t *testing.T) {
	for name, stop := range map[string]func(cancel func()) (goOn bool){
		"the listener breaks off": func(func()) bool { return false },
		"its context ends":        func(cancel func()) bool { cancel(); return true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := New()
				l := connect(t, f, Host{PeerID: "p"})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var id string
				go func() {
					id = (<-l.Orders()).Id
					f.Answer(t.Context(), "p", id, line("a"), false)
				}()
				for _, err := range f.Ask(ctx, "p", ask()) {
					if err != nil {
						if !errors.Is(err, context.Canceled) {
							t.Error(err)
						}
						continue
					}
					if !stop(cancel) {
						break
					}
				}
				synctest.Wait()
				if o := next(l); o.GetCancel().GetOrderId() != id {
					t.Errorf("the host is told %v, want the end of %s", o, id)
				}
				if f.Answer(t.Context(), "p", id, line("b"), false) {
					t.Error("an answer that nobody waits for was taken")
				}
			})
		})
	}
}

func TestAHostThatIsAwayIsNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New()
		for _, err := range f.Ask(t.Context(), "p", ask()) {
			if !errors.Is(err, ErrNotConnected) {
				t.Errorf("without a line: %v", err)
			}
		}
		l := connect(t, f, Host{PeerID: "p"})
		go func() {
			<-l.Orders()
			l.Close()
		}()
		for _, err := range f.Ask(t.Context(), "p", ask()) {
			if !errors.Is(err, ErrNotConnected) {
				t.Errorf("with a line that broke: %v", err)
			}
		}
		if err := f.Give("p", ask()); !errors.Is(err, ErrNotConnected) {
			t.Errorf("an order to a host that went: %v", err)
		}
		connect(t, f, Host{PeerID: "p"})
		for range pendingOrders {
			if err := f.Give("p", ask()); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Give("p", ask()); err == nil {
			t.Error("more orders wait than may")
		}
	})
}

// TestAnotherHostCannotAnswer: an order's ID is no right.
func TestAnotherHostCannotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New()
		l := connect(t, f, Host{PeerID: "p"})
		go func() {
			o := <-l.Orders()
			if f.Answer(t.Context(), "q", o.Id, line("wrong"), true) {
				t.Error("another host's answer was taken")
			}
			f.Answer(t.Context(), "p", o.Id, line("right"), true)
		}()
		for m, err := range f.Ask(t.Context(), "p", ask()) {
			if err != nil || string(m.(*shoalv1.SendLogRequest).Data) != "right" {
				t.Errorf("got %v, %v", m, err)
			}
		}
	})
}
