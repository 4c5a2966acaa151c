package runtimes

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CRIPull pulls an image as kubelet does, by the Kubernetes interface of
// containerd. auth may be nil.
func (c *Containerd) CRIPull(ctx context.Context, ref string, auth *cri.AuthConfig) error {
	conn, err := grpc.NewClient("unix://"+c.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("containerd on %s: %w", c.Host.Name, err)
	}
	defer conn.Close()
	_, err = cri.NewImageServiceClient(conn).PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}, Auth: auth})
	if err != nil {
		return fmt.Errorf("pull %s by the CRI on %s: %w", ref, c.Host.Name, err)
	}
	return nil
}
