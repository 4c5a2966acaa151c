package api

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/auth"
)

// keyService changes the keys. Its callers have the data folder, where the keys
// lie anyway.
type keyService struct{ Config }

func (s keyService) RotateTokenKeys(ctx context.Context, req *connect.Request[shoalv1.RotateTokenKeysRequest]) (*connect.Response[shoalv1.RotateTokenKeysResponse], error) {
	after := auth.SignAfter
	if req.Msg.SignAfterSeconds != nil {
		after = seconds(*req.Msg.SignAfterSeconds)
	}
	r, err := s.Auth.RotateKeys(ctx, after)
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.RotateTokenKeysResponse{
		KeyId: r.KeyID, SignsFrom: timestamppb.New(r.SignsFrom), OldUntil: timestamppb.New(r.OldUntil),
	}), nil
}
