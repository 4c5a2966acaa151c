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
