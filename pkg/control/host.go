package control

import (
	"context"

	"connectrpc.com/connect"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// ReportFacts tells the supernode what this host is.
func (l *Line) ReportFacts(ctx context.Context, f *shoalv1.Facts) error {
	return l.each(ctx, func(ctx context.Context, base string) error {
		_, err := shoalv1connect.NewHostServiceClient(l.client, base).ReportFacts(ctx, connect.NewRequest(&shoalv1.ReportFactsRequest{Facts: f}))
		return err
	})
}

// ReportContainers tells how this host's containers stand.
func (l *Line) ReportContainers(ctx context.Context, r *shoalv1.ReportContainersRequest) error {
	return l.each(ctx, func(ctx context.Context, base string) error {
		_, err := shoalv1connect.NewHostServiceClient(l.client, base).ReportContainers(ctx, connect.NewRequest(r))
		return err
	})
}

// SendLog sends a piece of a container's log; stop says that nobody reads it
// any more. Pieces are sent one after the other.
func (l *Line) SendLog(ctx context.Context, r *shoalv1.SendLogRequest) (stop bool, err error) {
	err = l.each(ctx, func(ctx context.Context, base string) error {
		answer, err := shoalv1connect.NewHostServiceClient(l.client, base).SendLog(ctx, connect.NewRequest(r))
		stop = err == nil && answer.Msg.Stop
		return err
	})
	return stop, err
}
