package api

import (
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// hostService hears what hosts tell of themselves.
type hostService struct {
	Config
	shoalv1connect.UnimplementedHostServiceHandler
}
