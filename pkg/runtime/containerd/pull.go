package containerd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/runtime"
)

// broughtLabel marks names by digest that were not there before a Pull; its
// value is the repository.
const broughtLabel = "shoalproject.github.com/brought"

// Pull brings an image into the first namespace, through the mirror alone, as
// containerd itself asks a mirror: the image's registry goes into ?ns=. It
// returns the digest that the image's name stands for.
func (r *Runtime) Pull(ctx context.Context, p runtime.Pull) (blob.Digest, error) {
	if r.opts.Mirror == "" {
		return "", errors.New("pull into containerd: no mirror address is configured")
	}
	name, err := reference.ParseDockerRef(p.Image)
	if err != nil {
		return "", fmt.Errorf("pull %q into containerd: %w", p.Image, err)
	}
	progress := &progress{report: p.Progress, seen: map[blob.Digest]bool{}}
	opts := []containerd.RemoteOpt{
		containerd.WithResolver(r.resolver(p)),
		containerd.WithImageHandlerWrapper(progress.wrap),
	}
	if p.Platform != "" {
		opts = append(opts, containerd.WithPlatform(p.Platform))
	}
	if p.Unpack {
		opts = append(opts, containerd.WithPullUnpack)
		if r.opts.Snapshotter != "" {
			opts = append(opts, containerd.WithPullSnapshotter(r.opts.Snapshotter))
		}
	}
	ns := r.opts.Namespaces[0]
	if ns == DefaultNamespace {
		// kubelet's view of an image that containerd's CRI manages.
		opts = append(opts, containerd.WithPullLabel("io.cri-containerd.image", "managed"))
	}
	ctx = namespaces.WithNamespace(ctx, ns)
	if _, err := r.client.ImageService().Get(ctx, name.String()); errdefs.IsNotFound(err) {
		if _, byDigest := name.(reference.Digested); byDigest {
			opts = append(opts, containerd.WithPullLabel(broughtLabel, name.Name()))
		}
	}
	image, err := r.client.Pull(ctx, name.String(), opts...)
	if err != nil {
		return "", fmt.Errorf("pull %s into containerd through the mirror at %s: %w", name, r.opts.Mirror, err)
	}
	return image.Target().Digest, nil
}

// Tag lets a name stand for the image that another name stands for, in the
// first namespace.
func (r *Runtime) Tag(ctx context.Context, image, as string) error {
	from, err := reference.ParseDockerRef(image)
	if err != nil {
		return fmt.Errorf("tag %q in containerd: %w", image, err)
	}
	to, err := reference.ParseDockerRef(as)
	if err != nil {
		return fmt.Errorf("tag %s as %q in containerd: %w", from, as, err)
	}
	ctx = namespaces.WithNamespace(ctx, r.opts.Namespaces[0])
	names := r.client.ImageService()
	found, err := names.Get(ctx, from.String())
	if err == nil {
		found.Name = to.String()
		delete(found.Labels, broughtLabel) // this one is for people
		if _, err = names.Create(ctx, found); errdefs.IsAlreadyExists(err) {
			_, err = names.Update(ctx, found)
		}
	}
	if err != nil {
		return fmt.Errorf("tag %s as %s in containerd: %w", from, to, err)
	}
	return nil
}

// Tidy removes names by digest that Pull gave, but for the newest few of each
// repository and those that are wanted; containerd's garbage collector does
// the rest. Nobody else would: a name by a tag goes on to the next version, a
// name by a digest stays.
func (r *Runtime) Tidy(ctx context.Context, newest int, wanted func(blob.Digest) bool) error {
	ctx = namespaces.WithNamespace(ctx, r.opts.Namespaces[0])
	names := r.client.ImageService()
	list, err := names.List(ctx, fmt.Sprintf("labels.%q", broughtLabel))
	if err != nil {
		return fmt.Errorf("list what was brought into containerd: %w", err)
	}
	slices.SortFunc(list, func(a, b images.Image) int { return b.UpdatedAt.Compare(a.UpdatedAt) })
	seen := map[string]int{}
	var errs []error
	for _, image := range list {
		repository := image.Labels[broughtLabel]
		if seen[repository]++; seen[repository] <= newest || wanted(image.Target.Digest) {
			continue
		}
		if err := names.Delete(ctx, image.Name); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("remove %s from containerd: %w", image.Name, err))
		}
	}
	return errors.Join(errs...)
}

// resolver sends every request to the mirror. There is no way round it: an
// image that the mirror cannot give is not pulled.
func (r *Runtime) resolver(p runtime.Pull) remotes.Resolver {
	var header http.Header
	if p.Token != "" {
		header = http.Header{"Authorization": {"Bearer " + p.Token}}
	}
	client := &http.Client{Transport: docker.DefaultHTTPTransport(nil)}
	authorizer := docker.NewDockerAuthorizer(docker.WithAuthClient(client),
		docker.WithAuthCreds(func(string) (string, string, error) {
			if p.Credential == nil {
				return "", "", nil
			}
			return p.Credential.Username, p.Credential.Secret, nil
		}))
	return docker.NewResolver(docker.ResolverOptions{
		Hosts: func(string) ([]docker.RegistryHost, error) {
			return []docker.RegistryHost{{
				Client:       client,
				Authorizer:   authorizer,
				Scheme:       "http",
				Host:         r.opts.Mirror,
				Header:       header,
				Path:         "/v2",
				Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
			}}, nil
		},
	})
}

// progress counts the bytes of the descriptors that a pull meets.
type progress struct {
	report func(done, total int64) // may be nil

	mu          sync.Mutex
	seen        map[blob.Digest]bool // guarded by mu
	done, total int64                // guarded by mu
}

// wrap is an images.Handler around the one that fetches.
func (p *progress) wrap(next images.Handler) images.Handler {
	return images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		p.wanted(desc)
		children, err := next.Handle(ctx, desc)
		if err != nil {
			return children, err
		}
		p.wanted(children...)
		p.finished(desc)
		return children, nil
	})
}

func (p *progress) wanted(descs ...ocispec.Descriptor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, desc := range descs {
		if !p.seen[desc.Digest] {
			p.seen[desc.Digest] = true
			p.total += desc.Size
		}
	}
	p.tell()
}

func (p *progress) finished(desc ocispec.Descriptor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += desc.Size
	p.tell()
}

// tell is called with mu held, which keeps the reports in order.
func (p *progress) tell() {
	if p.report != nil {
		p.report(p.done, p.total)
	}
}
