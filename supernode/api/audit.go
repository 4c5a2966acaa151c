package api

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/audit"
	"github.com/shoalproject/shoal/supernode/auth"
)

// exportChunk is how much of an export one message carries, in bytes.
const exportChunk = 256 << 10

// maxToldPulls bounds what a member tells at once.
const maxToldPulls = 1000

// auditService shows the audit to who may see it: each call is decided about
// by itself.
type auditService struct{ Config }

// query is what the caller may have of what they ask for.
func (s auditService) query(ctx context.Context, f *shoalv1.AuditFilter) (audit.Query, error) {
	since, err := s.Auth.MayAudit(ctx, userOf(ctx).User, f.GetProject())
	if err != nil {
		return audit.Query{}, err
	}
	q := audit.Query{
		Subject: f.GetSubject(), Action: f.GetAction(), Object: f.GetObject(), Project: f.GetProject(), Denied: f.GetDenied(),
		Since: timeOf(f.GetSince()), Until: timeOf(f.GetUntil()),
	}
	if q.Since.Before(since) {
		q.Since = since
	}
	return q, nil
}

// timeOf is the zero time where none is set.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func (s auditService) SearchAudit(ctx context.Context, req *connect.Request[shoalv1.SearchAuditRequest]) (*connect.Response[shoalv1.SearchAuditResponse], error) {
	q, err := s.query(ctx, req.Msg.Filter)
	if err != nil {
		return nil, coded(err)
	}
	rows, next, err := s.Audit.Search(ctx, q, req.Msg.Before, int(req.Msg.Limit))
	if err != nil {
		return nil, coded(err)
	}
	out := &shoalv1.SearchAuditResponse{Next: next}
	for _, r := range rows {
		out.Rows = append(out.Rows, &shoalv1.AuditRow{
			Sequence: r.Sequence, Time: timestamppb.New(r.Time), Subject: r.Subject, Action: r.Action, Object: r.Object,
			Project: r.Project, From: r.From, Allowed: r.Allowed, Reason: r.Reason, Detail: r.Detail, More: r.More,
		})
	}
	return connect.NewResponse(out), nil
}

func (s auditService) ExportAudit(ctx context.Context, req *connect.Request[shoalv1.ExportAuditRequest], stream *connect.ServerStream[shoalv1.ExportAuditResponse]) error {
	q, err := s.query(ctx, req.Msg.Filter)
	if err != nil {
		return coded(err)
	}
	var lines []byte
	send := func() error {
		if len(lines) == 0 {
			return nil
		}
		err := stream.Send(&shoalv1.ExportAuditResponse{Lines: lines})
		lines = lines[:0]
		return err
	}
	err = s.Audit.Export(ctx, q, func(line []byte) error {
		lines = append(append(lines, line...), '\n')
		if len(lines) < exportChunk {
			return nil
		}
		return send()
	})
	if err != nil {
		return coded(err)
	}
	return send()
}

// mirrorAuditService takes what members decided about their own readers.
type mirrorAuditService struct{ Config }

func (s mirrorAuditService) TellPulls(ctx context.Context, req *connect.Request[shoalv1.TellPullsRequest]) (*connect.Response[shoalv1.TellPullsResponse], error) {
	if len(req.Msg.Pulls) > maxToldPulls {
		return nil, connect.NewError(connect.CodeInvalidArgument, errTooMuch)
	}
	from := callerOf(ctx)
	for _, p := range req.Msg.Pulls {
		s.Audit.Record(toldEvent(from, p))
	}
	return connect.NewResponse(&shoalv1.TellPullsResponse{}), nil
}

func (s auditService) VerifyAudit(ctx context.Context, _ *connect.Request[shoalv1.VerifyAuditRequest]) (*connect.Response[shoalv1.VerifyAuditResponse], error) {
	if by := userOf(ctx).User; !by.Admin {
		return nil, coded(fmt.Errorf("%w: only system administrators check the audit", auth.ErrDenied))
	}
	report, err := s.Audit.Verify(ctx)
	if err != nil {
		return nil, coded(err)
	}
	out := &shoalv1.VerifyAuditResponse{Rows: report.Rows, First: report.First, Last: report.Last}
	for _, b := range report.Broken {
		out.Broken = append(out.Broken, b.Error())
	}
	return connect.NewResponse(out), nil
}
