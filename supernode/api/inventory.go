package api

import (
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// inventoryService is for everybody who is logged in: each call decides about its
// own pool.
type inventoryService struct {
	Config
	shoalv1connect.UnimplementedInventoryServiceHandler
}
