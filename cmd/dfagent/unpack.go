package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/mirror"
	"github.com/shoalproject/shoal/pkg/runtime"
	"github.com/shoalproject/shoal/pkg/runtime/docker"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// versionsKept is how many versions of an image stay in containerd beside
// those that are run.
const versionsKept = 3

// unpack brings an image from the store into what runs containers here, or
// else into the runtime that there is. It is taken by its digest, so that
// exactly this one is run, whatever its tag says by then; the tag follows.
func (a *agent) unpack(ctx context.Context, ref blob.Ref, p *shoalv1.Prewarm) error {
	pull := runtime.Pull{Platform: p.Platform, Unpack: true}
	if ref.Registry == "" {
		pull.Token = p.Token
	}
	registry := ref.Registry
	if registry == "" {
		registry = a.names.first()
	}
	image := registry + "/" + ref.Repository
	switch {
	case a.pretends != nil:
		return a.pretends.Unpack(blob.Digest(p.Digest))
	case a.runtime != nil && a.config.runs() != onDocker:
		return a.unpackIntoContainerd(ctx, image, pull, p)
	case a.config.Docker != "":
		return a.unpackIntoDocker(ctx, ref, image, pull, p)
	}
	return errors.New("this agent has no container runtime to unpack into: start it with --containerd SOCKET or --docker SOCKET")
}

func (a *agent) unpackIntoContainerd(ctx context.Context, image string, pull runtime.Pull, p *shoalv1.Prewarm) error {
	pull.Image = image + "@" + p.Digest
	if _, err := a.runtime.Pull(ctx, pull); err != nil {
		return err
	}
	wanted := func(d blob.Digest) bool { return a.supervisor != nil && a.supervisor.Wants(d) }
	if err := a.runtime.Tidy(ctx, versionsKept, wanted); err != nil {
		a.log.Warn("older versions of images stay in containerd", "error", err)
	}
	if p.Tag == "" {
		return nil
	}
	return a.runtime.Tag(ctx, pull.Image, image+":"+p.Tag)
}

// unpackIntoDocker has Docker pull from this host's mirror. Docker names no
// registry to a mirror, so one that is not our own gets a listener of its own
// for as long as the pull lasts.
func (a *agent) unpackIntoDocker(ctx context.Context, ref blob.Ref, image string, pull runtime.Pull, p *shoalv1.Prewarm) error {
	address := a.config.Mirror
	if ref.Registry != "" {
		own, stop, err := a.mirrorOf(ctx, ref.Registry)
		if err != nil {
			return err
		}
		defer stop()
		address = own
	}
	daemon := docker.New(a.config.Docker)
	defer daemon.Close()
	pull.Image = address + "/" + ref.Repository + "@" + p.Digest
	if err := daemon.Pull(ctx, pull); err != nil {
		return err
	}
	if p.Tag == "" {
		return nil
	}
	return daemon.Tag(ctx, pull.Image, image+":"+p.Tag)
}

// mirrorOf serves the mirror of one registry on loopback until stop.
func (a *agent) mirrorOf(ctx context.Context, registry string) (address string, stop func(), err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("serve a mirror of %s for Docker: %w", registry, err)
	}
	server := mirror.NewServer(a.mirror(registry), a.log)
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			a.log.Warn("the mirror for Docker's pull ended", "registry", registry, "error", err)
		}
	}()
	return listener.Addr().String(), func() { server.Close() }, nil
}
