// Package containerd reads, watches and fills the content store of a
// containerd on this host, 1.6 or 2.x, through its client.
//
// Blobs are read as files, not over gRPC: a complete blob is one plain file
// below the content store's root, and an open file can be sent to a neighbour
// without copying it. containerd's garbage collector may unlink the file at
// any time; who has it open goes on reading. Names and sizes come from the
// API, so what containerd does not list in the watched namespaces is not
// served, although its file is there.
//
// The client of containerd is large; only cmd/dfagent may import this package.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/runtime"
)

const (
	// DefaultAddress is where containerd listens.
	DefaultAddress = "/run/containerd/containerd.sock"
	// DefaultRoot is where containerd keeps its state when it cannot be asked.
	DefaultRoot = "/var/lib/containerd"
	// DefaultNamespace is Kubernetes' own.
	DefaultNamespace = "k8s.io"

	contentPlugin = "io.containerd.content.v1.content"
	// callTimeout bounds a call that a reader waits for.
	callTimeout = 2 * time.Second
	// digestLabel marks the leases of this package.
	digestLabel = "shoalproject.github.com/digest"
)

// Options say which containerd, and what of it.
type Options struct {
	// Address of the gRPC socket. Empty: DefaultAddress.
	Address string
	// Root is containerd's root folder. Empty: containerd is asked, and
	// DefaultRoot is taken where it does not say.
	Root string
	// Namespaces whose content is served and watched. The first one is pulled
	// into. Empty: DefaultNamespace alone.
	Namespaces []string
	// Mirror is host:port of the registry mirror on this host, for Pull.
	Mirror string
	// Snapshotter to unpack with. Empty: containerd's default.
	Snapshotter string
	// Log takes what is worth telling. Nil: nothing is told.
	Log *slog.Logger
}

// Runtime is a connection to one containerd. It connects when it is needed and
// again after containerd was restarted.
type Runtime struct {
	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	opts   Options
	client *containerd.Client

	mu   sync.Mutex
	root string // guarded by mu: of the content store; empty until found out
}

// Open makes a Runtime. It does not wait for containerd: each call fails as
// long as that is not there. It ends with ctx or at Close.
func Open(ctx context.Context, opts Options) (*Runtime, error) {
	if opts.Address == "" {
		opts.Address = DefaultAddress
	}
	if len(opts.Namespaces) == 0 {
		opts.Namespaces = []string{DefaultNamespace}
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	for _, ns := range opts.Namespaces {
		if ns == "" {
			return nil, errors.New("containerd: a namespace has an empty name")
		}
	}
	client, err := containerd.New(opts.Address, containerd.WithDialOpts(dialOptions(opts.Address)))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", opts.Address, err)
	}
	r := &Runtime{opts: opts, client: client}
	if opts.Root != "" {
		r.root = filepath.Join(opts.Root, contentPlugin)
	}
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r, nil
}

// dialOptions replace the client's own, whose dialer waits ten seconds for a
// socket that is not there. Here a call fails at once while containerd is
// away, because a reader waits for it, and a Watch calls again.
func dialOptions(socket string) []grpc.DialOption {
	var dialer net.Dialer
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a Unix socket
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: callTimeout,
		}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		}),
	}
}

// Close ends the connection and every Watch.
func (r *Runtime) Close() error {
	r.cancel()
	if err := r.client.Close(); err != nil {
		return fmt.Errorf("close connection to containerd: %w", err)
	}
	return nil
}

// Client is the connection, for who runs containers on this containerd. It is
// closed with the Runtime.
func (r *Runtime) Client() *containerd.Client { return r.client }

// Version is what containerd calls itself, for reports.
func (r *Runtime) Version(ctx context.Context) (string, error) {
	v, err := r.client.Version(ctx)
	if err != nil {
		return "", fmt.Errorf("ask containerd at %s for its version: %w", r.opts.Address, err)
	}
	return v.Version, nil
}

// contentRoot is the folder of the content store: as configured, as containerd
// exports it (2.x and 1.6 do), or the default.
func (r *Runtime) contentRoot(ctx context.Context) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.root != "" {
		return r.root
	}
	answer, err := r.client.IntrospectionService().Plugins(ctx, "type==io.containerd.content.v1,id==content")
	if err != nil {
		return filepath.Join(DefaultRoot, contentPlugin) // not kept: ask again next time
	}
	r.root = filepath.Join(DefaultRoot, contentPlugin)
	for _, plugin := range answer.Plugins {
		if root := plugin.Exports["root"]; filepath.IsAbs(root) {
			r.root = root
		}
	}
	return r.root
}

// each calls f for each watched namespace until it returns true or an error
// other than "not found".
func (r *Runtime) each(ctx context.Context, f func(ctx context.Context) (bool, error)) (bool, error) {
	for _, ns := range r.opts.Namespaces {
		done, err := f(namespaces.WithNamespace(ctx, ns))
		if err != nil && !errdefs.IsNotFound(err) {
			return false, err
		}
		if done && err == nil {
			return true, nil
		}
	}
	return false, nil
}

// info is what containerd lists of d in any watched namespace; nil when
// nothing.
func (r *Runtime) info(ctx context.Context, d blob.Digest) (found *content.Info, err error) {
	_, err = r.each(ctx, func(ctx context.Context) (bool, error) {
		info, err := r.client.ContentStore().Info(ctx, d)
		if err == nil {
			found = &info
		}
		return err == nil, err
	})
	if err != nil {
		return nil, fmt.Errorf("ask containerd at %s for %s: %w", r.opts.Address, d, err)
	}
	return found, nil
}

// Has reports whether containerd lists d in a watched namespace.
func (r *Runtime) Has(ctx context.Context, d blob.Digest) (bool, error) {
	info, err := r.info(ctx, d)
	return info != nil, err
}

// OpenLocal opens a complete blob of containerd's content store for reading.
// It wraps blob.ErrNotHeld when containerd does not list the blob, or its
// file is not there, or is no plain file of the listed size. While containerd
// does not answer (it is being restarted) nothing is opened.
func (r *Runtime) OpenLocal(d blob.Digest) (*os.File, error) {
	if _, err := blob.ParseDigest(string(d)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.ctx, callTimeout)
	defer cancel()
	info, err := r.info(ctx, d)
	if err != nil {
		return nil, err
	}
	if info == nil {
		return nil, fmt.Errorf("containerd does not list %s: %w", d, blob.ErrNotHeld)
	}
	file, err := openBlob(r.contentRoot(ctx), d, info.Size)
	if err != nil {
		return nil, fmt.Errorf("open %s in containerd's content store: %w", d, err)
	}
	return file, nil
}

// openBlob opens the file of a blob below the root of a content store.
func openBlob(root string, d blob.Digest, size int64) (*os.File, error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, notHeld(err)
	}
	defer dir.Close()
	name := path.Join("blobs", d.Algorithm().String(), d.Encoded())
	before, err := dir.Lstat(name)
	if err != nil {
		return nil, notHeld(err)
	}
	if !before.Mode().IsRegular() { // opening a pipe would wait for ever
		return nil, fmt.Errorf("%s is %s, not a plain file: %w", name, before.Mode().Type(), blob.ErrNotHeld)
	}
	file, err := dir.Open(name)
	if err != nil {
		return nil, notHeld(err)
	}
	after, err := file.Stat()
	if err == nil && !os.SameFile(before, after) {
		err = fmt.Errorf("%s was replaced while it was opened: %w", name, blob.ErrNotHeld)
	}
	if err == nil && after.Size() != size {
		err = fmt.Errorf("%s has %d bytes, containerd lists %d: %w", name, after.Size(), size, blob.ErrNotHeld)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// notHeld turns "there is no such file" (collected meanwhile) into ErrNotHeld.
func notHeld(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", blob.ErrNotHeld, err)
	}
	return err
}

// List is all content of the watched namespaces, each digest once.
func (r *Runtime) List(ctx context.Context) ([]runtime.Content, error) {
	var list []runtime.Content
	seen := map[blob.Digest]bool{}
	_, err := r.each(ctx, func(ctx context.Context) (bool, error) {
		return false, r.client.ContentStore().Walk(ctx, func(info content.Info) error {
			d, err := blob.ParseDigest(string(info.Digest))
			if err == nil && !seen[d] {
				seen[d] = true
				list = append(list, runtime.Content{Digest: d, Size: info.Size})
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list content of containerd at %s: %w", r.opts.Address, err)
	}
	return list, nil
}

// Lease keeps d from containerd's garbage collector until ttl has passed, in
// each watched namespace that lists it. A later call renews. It wraps
// blob.ErrNotHeld when none lists it.
func (r *Runtime) Lease(ctx context.Context, d blob.Digest, ttl time.Duration) error {
	held := false
	_, err := r.each(ctx, func(ctx context.Context) (bool, error) {
		if _, err := r.client.ContentStore().Info(ctx, d); err != nil {
			return false, err
		}
		held = true
		return false, r.lease(ctx, d, ttl)
	})
	if err == nil && !held {
		err = blob.ErrNotHeld
	}
	if err != nil {
		return fmt.Errorf("lease %s in containerd for %s: %w", d, ttl, err)
	}
	return nil
}

// lease makes a new lease and only then ends the older ones.
func (r *Runtime) lease(ctx context.Context, d blob.Digest, ttl time.Duration) error {
	service := r.client.LeasesService()
	filter := fmt.Sprintf("labels.%q==%s", digestLabel, d)
	old, err := service.List(ctx, filter)
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	lease, err := service.Create(ctx, leases.WithRandomID(), leases.WithExpiration(ttl), leases.WithLabel(digestLabel, string(d)))
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if err := service.AddResource(ctx, lease, leases.Resource{ID: string(d), Type: "content"}); err != nil {
		return errors.Join(fmt.Errorf("add resource: %w", err), service.Delete(ctx, lease))
	}
	for _, l := range old {
		if err := service.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("end an older lease: %w", err)
		}
	}
	return nil
}
