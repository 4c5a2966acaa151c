package main

import (
	"context"
	"errors"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
	"github.com/shoalproject/shoal/pkg/mirror"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

const (
	// prewarmsAtOnce bounds the orders that are carried out side by side; the
	// rest wait, so that a rollout of many images does not take the host's
	// line from the pods that wait for one.
	prewarmsAtOnce = 2
	// tellEvery is how often progress goes up.
	tellEvery = time.Second
)

// orders carries out what the supernode asks for.
type orders struct {
	agent *agent
	slots chan struct{}
	wait  sync.WaitGroup
	heard int64 // the number of the last change of rights; handle's alone
}

func newOrders(a *agent) *orders {
	return &orders{agent: a, slots: make(chan struct{}, prewarmsAtOnce)}
}

// handle takes an order; it does not block. Orders come one after the other.
func (o *orders) handle(ctx context.Context, order *shoalv1.Order) {
	switch what := order.What.(type) {
	case *shoalv1.Order_Revoked:
		o.agent.node.Revoke(what.Revoked.PeerIds...)
		if o.agent.dht != nil {
			o.agent.dht.Drop(what.Revoked.PeerIds...)
		}
	case *shoalv1.Order_Renew:
		o.agent.line.RenewSoon()
	case *shoalv1.Order_RightsChanged:
		o.rightsChanged(ctx, what.RightsChanged)
	case *shoalv1.Order_Idle:
		// One that was missed could have been about anything.
		o.rightsChanged(ctx, &shoalv1.RightsChanged{Number: what.Idle.RightsNumber, Before: -1})
	case *shoalv1.Order_ApplyProfile:
		o.wait.Go(func() { o.agent.keeper.Carry(ctx, order.Id, what.ApplyProfile) })
	case *shoalv1.Order_Cancel:
		o.agent.keeper.Cancel(what.Cancel.OrderId)
		o.agent.logs.cancel(what.Cancel.OrderId)
	case *shoalv1.Order_Desired:
		o.desired(ctx, what.Desired)
	case *shoalv1.Order_ReadLog:
		o.wait.Go(o.agent.logs.begin(ctx, order.Id, what.ReadLog))
	case *shoalv1.Order_Prewarm:
		o.wait.Go(func() {
			select {
			case o.slots <- struct{}{}:
				defer func() { <-o.slots }()
			case <-ctx.Done():
				return
			}
			o.prewarm(ctx, order.Id, what.Prewarm)
		})
	}
}

// rightsChanged ends what this host remembers about readers' rights.
func (o *orders) rightsChanged(ctx context.Context, c *shoalv1.RightsChanged) {
	if c.Number <= o.heard {
		return
	}
	change := mirror.Change{At: time.UnixMilli(c.Number), Project: c.Project, User: c.User}
	pools := c.Pools
	if c.Before != o.heard {
		// At the start the membership is renewed anyway.
		change.Project, change.User, pools = "", "", o.heard != 0
	}
	o.heard = c.Number
	o.agent.gate.Forget(ctx, change)
	if pools {
		o.agent.line.RenewSoon()
	}
}

// meter counts what an order has brought so far.
type meter struct{ done, total atomic.Int64 }

func (o *orders) prewarm(ctx context.Context, id string, p *shoalv1.Prewarm) {
	var m meter
	told, stop := context.WithCancel(ctx)
	var telling sync.WaitGroup
	telling.Go(func() { o.tell(told, id, &m) })
	err := o.agent.bring(ctx, p, &m)
	stop()
	telling.Wait()
	last := &shoalv1.ProgressRequest{OrderId: id, BytesDone: m.done.Load(), BytesTotal: m.total.Load(), Done: true}
	if err != nil {
		last.Error = err.Error()
		o.agent.log.Warn("a prewarm failed", "image", p.Repository, "digest", p.Digest, "error", err)
	}
	if err := o.agent.line.Progress(ctx, last); err != nil && ctx.Err() == nil {
		o.agent.log.Warn("the end of a prewarm was not told", "error", err)
	}
}

// tell sends progress up until ctx ends.
func (o *orders) tell(ctx context.Context, id string, m *meter) {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			// A lost figure is followed by a newer one.
			_ = o.agent.line.Progress(ctx, &shoalv1.ProgressRequest{OrderId: id, BytesDone: m.done.Load(), BytesTotal: m.total.Load()})
		case <-ctx.Done():
			return
		}
	}
}

// bring fetches an image into the store, and into the runtime when asked.
func (a *agent) bring(ctx context.Context, p *shoalv1.Prewarm, m *meter) error {
	ref := blob.Ref{Registry: p.Registry, Repository: p.Repository}
	d, err := blob.ParseDigest(p.Digest)
	if err != nil {
		return err
	}
	if p.Platform == "" {
		p.Platform = "linux/" + goruntime.GOARCH
	}
	if err := a.image(ctx, ref, d, p, m); err != nil {
		return err
	}
	if p.Unpack {
		return a.unpack(ctx, ref, p)
	}
	return nil
}

func (a *agent) image(ctx context.Context, ref blob.Ref, d blob.Digest, p *shoalv1.Prewarm, m *meter) error {
	manifest, err := a.fetcher.Manifest(ctx, ref, string(d), fetch.Cred{Token: p.Token})
	if err != nil {
		return err
	}
	m.total.Add(manifest.Descriptor.Size)
	m.done.Add(manifest.Descriptor.Size)
	if children := childrenOf(manifest.Body); len(children) > 0 {
		child, err := blob.PickPlatform(children, p.Platform)
		if err != nil {
			return err
		}
		return a.image(ctx, ref, child.Digest, p, m)
	}
	blobs := blobsOf(manifest.Body)
	pull := a.fetcher.BeginPull(ref.String()+"@"+string(d), blobs)
	for _, b := range blobs {
		m.total.Add(b.Size)
	}
	var errs []error
	for _, b := range blobs {
		errs = append(errs, a.blob(ctx, fetch.Request{
			Digest: b.Digest, Size: b.Size, Ref: ref, Class: "prewarm", OriginToken: p.Token, PullID: pull,
		}, m))
	}
	return errors.Join(errs...)
}

func (a *agent) blob(ctx context.Context, r fetch.Request, m *meter) error {
	var counted int64
	err := a.fetcher.Prefetch(ctx, r, func(done, _ int64) {
		m.done.Add(done - counted)
		counted = done
	})
	if err == nil {
		m.done.Add(r.Size - counted)
	}
	return err
}
