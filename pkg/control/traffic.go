package control

import (
	"context"

	"connectrpc.com/connect"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// ReportTraffic tells where this host's bytes came from.
func (l *Line) ReportTraffic(ctx context.Context, r *shoalv1.ReportTrafficRequest) error {
	return l.each(ctx, func(ctx context.Context, base string) error {
		_, err := shoalv1connect.NewHostServiceClient(l.client, base).ReportTraffic(ctx, connect.NewRequest(r))
		return err
	})
}
