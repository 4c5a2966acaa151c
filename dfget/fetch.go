package dfget

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/settings"
)

// fetchOptions are the flags of `dfget WHAT -O OUT`.
type fetchOptions struct {
	out      string
	digest   string
	headers  []string
	timeout  time.Duration
	platform string
}

func (o *fetchOptions) flags(f *pflag.FlagSet) {
	f.StringVarP(&o.out, "output", "O", "", "where to put it: a folder, or FILE.tar, for an image; a file for the rest")
	f.StringVar(&o.digest, "digest", "", "refuse a file whose digest is another (sha256:… or sha512:…)")
	f.StringArrayVarP(&o.headers, "header", "H", nil, "header 'Name: value' for a direct URL (repeatable)")
	f.DurationVar(&o.timeout, "timeout", 2*time.Hour, "give up after this long")
	f.StringVar(&o.platform, "platform", runtime.GOOS+"/"+runtime.GOARCH, "os/arch[/variant] of an image, or 'all'")
}

// result is what --json prints at the end.
type result struct {
	What    string  `json:"what"`
	Out     string  `json:"out"`
	Digest  string  `json:"digest"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	Via     string  `json:"via"`
}

func (a *app) fetch(ctx context.Context, what string, o fetchOptions) error {
	if o.out == "" {
		return fmt.Errorf("%w: say where to put it with -O OUT", settings.ErrUsage)
	}
	if o.digest != "" {
		if _, err := blob.ParseDigest(o.digest); err != nil {
			return fmt.Errorf("%w: --digest: %w", settings.ErrUsage, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	start := time.Now()
	var done result
	var err error
	if strings.Contains(what, "://") {
		done, err = a.fetchURL(ctx, what, o)
	} else {
		done, err = a.fetchReference(ctx, what, o)
	}
	if err != nil {
		return fmt.Errorf("fetch %s: %w", what, err)
	}
	done.What, done.Out, done.Seconds = what, o.out, time.Since(start).Seconds()
	if a.json {
		return json.NewEncoder(a.out).Encode(done)
	}
	a.say("%s: %s in %.1f s, %s (%s)", o.out, formatBytes(done.Bytes), done.Seconds, done.Digest, done.Via)
	return nil
}

// parseImage is blob.ParseImage for what a person typed.
func parseImage(s string) (blob.Image, error) {
	i, err := blob.ParseImage(s)
	if err != nil {
		return i, fmt.Errorf("%w: %w", settings.ErrUsage, err)
	}
	return i, nil
}

func (a *app) fetchReference(ctx context.Context, what string, o fetchOptions) (result, error) {
	image, err := parseImage(what)
	if err != nil {
		return result{}, err
	}
	status, err := a.agentStatus(ctx)
	if err != nil {
		return result{}, err
	}
	registry, err := a.mirror(status.MirrorAddr, image.Ref)
	if err != nil {
		return result{}, err
	}
	return a.fetchImage(ctx, registry, image, o)
}

// fetchURL sends a registry's blob URL through the agent and fetches any
// other one itself.
func (a *app) fetchURL(ctx context.Context, raw string, o fetchOptions) (result, error) {
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") {
		return result{}, fmt.Errorf("%w: %q is not an http or https URL", settings.ErrUsage, raw)
	}
	want := blob.Digest(o.digest)
	if image, ok := blobURL(u); ok {
		if want != "" && want != image.Digest {
			return result{}, fmt.Errorf("%w: the URL names %s and --digest %s", settings.ErrUsage, image.Digest, want)
		}
		want = image.Digest
		if status, err := a.agentStatus(ctx); err == nil {
			registry, err := a.mirror(status.MirrorAddr, image.Ref)
			if err != nil {
				return result{}, err
			}
			known, err := registry.hasBlob(ctx, image.Digest)
			if err != nil {
				return result{}, err
			}
			if known {
				return a.fetchBlob(ctx, registry, image.Digest, o.out)
			}
		}
	}
	a.say("%s is no upstream of the supernode: fetching it directly.", u.Host)
	return a.fetchDirect(ctx, u, want, o)
}

// blobURL recognises https://REGISTRY/v2/REPOSITORY/blobs/DIGEST.
func blobURL(u *url.URL) (blob.Image, bool) {
	path, ok := strings.CutPrefix(u.Path, "/v2/")
	repository, digest, found := strings.Cut(path, "/blobs/")
	d, err := blob.ParseDigest(digest)
	if !ok || !found || err != nil {
		return blob.Image{}, false
	}
	return blob.Image{Ref: blob.Ref{Registry: u.Host, Repository: repository}, Digest: d}, true
}

// formatBytes writes a size as people read it (powers of 1000, as in 50GB).
func formatBytes(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	v := float64(n)
	i := 0
	for v >= 1000 && i < len(units)-1 {
		v /= 1000
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// exists reports whether a file is there already.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// formatMemory is a size in the units that memory is asked for in, so that
// what was given as 256MiB reads so again.
func formatMemory(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v := float64(n)
	i := 0
	for v >= 1024 && i < len(units)-1 {
		v /= 1024
		i++
	}
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0") + " " + units[i]
}
