package api

import (
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// costService is for everybody who is logged in: each call decides about its
// own pool.
type costService struct {
	Config
	shoalv1connect.UnimplementedCostServiceHandler
}
