package placement

import (
	"context"
	"errors"
	"iter"
	"testing"

	"google.golang.org/protobuf/proto"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// answered is a line whose host answers by these messages and then by an error,
// if there is one.
type answered struct {
	messages []proto.Message
	err      error
	left     bool // whoever asked did not listen to the end
}

func (*answered) Give(string, *shoalv1.Order) error { return nil }

func (a *answered) Ask(context.Context, string, *shoalv1.Order) iter.Seq2[proto.Message, error] {
	return func(yield func(proto.Message, error) bool) {
		for _, m := range a.messages {
			if !yield(m, nil) {
				a.left = true
				return
			}
		}
		if a.err != nil {
			yield(nil, a.err)
		}
	}
}

// Whoever leaves before the end has the order cancelled, so a prepull that is
// done is listened to until its end.
func TestAPrepullIsHeardOut(t *testing.T) {
	away := errors.New("away")
	done, failed, part := &shoalv1.ProgressRequest{Done: true}, &shoalv1.ProgressRequest{Done: true, Error: "no"}, &shoalv1.ProgressRequest{BytesDone: 1}
	for what, c := range map[string]struct {
		line  *answered
		fails string
		is    error
	}{
		"it is done":                    {line: &answered{messages: []proto.Message{part, done}}},
		"it is done, and the line ends": {line: &answered{messages: []proto.Message{done}, err: away}},
		"it failed":                     {line: &answered{messages: []proto.Message{failed}}, fails: "no"},
		"the line ends":                 {line: &answered{messages: []proto.Message{part}, err: away}, is: ErrUnreachable},
		"it says no more":               {line: &answered{messages: []proto.Message{part}}, fails: "a stopped answering before it had the image"},
	} {
		a := Agents{Lines: c.line, Token: func(string, string) (string, error) { return "", nil }, Away: away}
		err := a.Prepull(t.Context(), aHost("a"), Service{}, func(int64, int64) {})
		if c.line.left || c.fails == "" && !errors.Is(err, c.is) || c.fails != "" && (err == nil || err.Error() != c.fails) {
			t.Errorf("%s: %v, left %v", what, err, c.line.left)
		}
	}
}
