package placement

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"google.golang.org/protobuf/proto"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// Lines are those to the hosts, as package fleet keeps them.
type Lines interface {
	// Give gives a connected host an order that needs no answer.
	Give(peerID string, order *shoalv1.Order) error
	// Ask yields what a host answers to an order.
	Ask(ctx context.Context, peerID string, order *shoalv1.Order) iter.Seq2[proto.Message, error]
}

// Agents is the Engine that speaks to the agents of hosts.
type Agents struct {
	Lines Lines
	// Token makes out what a host pulls one repository of this registry with.
	Token func(peerID, repository string) (string, error)
	// Away is the error of Lines that says that a host is not connected.
	Away error
}

// reached marks what says that a host cannot be spoken to now.
func (a Agents) reached(err error) error {
	if errors.Is(err, a.Away) {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}

// Prepull implements Engine. The image is asked for by its digest, whatever
// its tag names by now.
func (a Agents) Prepull(ctx context.Context, host Host, service Service, progress func(done, total int64)) error {
	order := &shoalv1.Prewarm{
		Registry: service.Image.Registry, Repository: service.Image.Repository, Tag: service.Image.Tag, Digest: service.Digest, Unpack: true,
	}
	if order.Registry == "" {
		var err error
		if order.Token, err = a.Token(host.PeerID, order.Repository); err != nil {
			return err
		}
	}
	done := false
	var refusal error
	for m, err := range a.Lines.Ask(ctx, host.PeerID, &shoalv1.Order{What: &shoalv1.Order_Prewarm{Prewarm: order}}) {
		if done {
			break
		}
		if err != nil {
			return a.reached(err)
		}
		said, ok := m.(*shoalv1.ProgressRequest)
		switch {
		case !ok:
			return fmt.Errorf("%s answered a prepull with %T", host.label(), m)
		case said.Done && said.Error != "":
			done, refusal = true, errors.New(said.Error)
			continue // to the end of the answer, else the order would be cancelled
		case said.Done:
			done = true
			progress(said.BytesTotal, said.BytesTotal)
			continue
		}
		progress(said.BytesDone, said.BytesTotal)
	}
	if done {
		return refusal
	}
	return fmt.Errorf("%s stopped answering before it had the image", host.label())
}

// Assign implements Engine.
func (a Agents) Assign(_ context.Context, host Host, desired *shoalv1.Desired) error {
	if err := a.Lines.Give(host.PeerID, &shoalv1.Order{What: &shoalv1.Order_Desired{Desired: desired}}); err != nil {
		return a.reached(fmt.Errorf("tell %s what it is to run: %w", host.label(), err))
	}
	return nil
}

// Logs implements Engine.
func (a Agents) Logs(ctx context.Context, host Host, container string, tail int, follow bool, write func([]byte) error) error {
	order := &shoalv1.ReadLog{Container: container, Tail: int32(min(tail, 1<<30)), Follow: follow}
	for m, err := range a.Lines.Ask(ctx, host.PeerID, &shoalv1.Order{What: &shoalv1.Order_ReadLog{ReadLog: order}}) {
		if err != nil {
			return a.reached(err)
		}
		said, ok := m.(*shoalv1.SendLogRequest)
		if !ok {
			return fmt.Errorf("%s answered for a log with %T", host.label(), m)
		}
		if len(said.Data) > 0 {
			if err := write(said.Data); err != nil {
				return err
			}
		}
		if said.Error != "" {
			return errors.New(said.Error)
		}
	}
	return nil
}
