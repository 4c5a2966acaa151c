package dfget

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	_ "crypto/sha256" // digest verifiers
	_ "crypto/sha512"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/durable"
	"github.com/shoalproject/shoal/pkg/settings"
)

// opener opens a source from an offset on and tells the whole size (-1 when
// the source does not say).
type opener func(ctx context.Context, offset int64) (io.ReadCloser, int64, error)

// download writes a source to path: into path.part first, resumed when one is
// there, verified against want (when there is one), then renamed.
func download(ctx context.Context, path string, want blob.Digest, open opener, bar *bar) (blob.Digest, int64, error) {
	part := path + ".part"
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", 0, err
	}
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	algorithm := want
	if algorithm == "" {
		algorithm = "sha256:"
	}
	digester := algorithm.Algorithm().Digester()
	// A part from an earlier run is trusted only as far as the digest at the
	// end will say, so it is hashed as if it had just come.
	offset := int64(0)
	if want != "" {
		if offset, err = io.Copy(digester.Hash(), f); err != nil {
			return "", 0, fmt.Errorf("read %s: %w", part, err)
		}
	} else if err := f.Truncate(0); err != nil {
		return "", 0, err
	}
	bar.skip(offset)
	size, err := follow(ctx, io.MultiWriter(f, digester.Hash(), bar), offset, open, bar)
	if err != nil {
		return "", 0, fmt.Errorf("%w (what came is kept in %s and the next try goes on from there)", err, part)
	}
	got := digester.Digest()
	if want != "" && got != want {
		f.Close()
		os.Remove(part)
		return "", 0, fmt.Errorf("the digest is %s, not %s; nothing was kept", got, want)
	}
	if err := f.Close(); err != nil {
		return "", 0, err
	}
	if err := durable.Rename(part, path); err != nil {
		return "", 0, err
	}
	return got, size, nil
}

// follow copies until the whole is there; a cut connection is resumed as long
// as each try brings something.
func follow(ctx context.Context, w io.Writer, offset int64, open opener, bar *bar) (int64, error) {
	for {
		body, size, err := open(ctx, offset)
		if err != nil {
			return 0, err
		}
		bar.total(size)
		n, err := io.Copy(w, body)
		body.Close()
		offset += n
		switch {
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case err == nil && (size < 0 || offset == size):
			return offset, nil
		case n == 0 && err != nil:
			return 0, fmt.Errorf("after %d bytes: %w", offset, err)
		case n == 0:
			return 0, fmt.Errorf("%d of %d bytes came: %w", offset, size, io.ErrUnexpectedEOF)
		}
	}
}

// direct is a URL that is nobody's upstream.
type direct struct {
	url    *url.URL
	header http.Header
	pinned bool // the digest is known: it decides whether the parts belong together
	// version names the file that the first answer began; the next ones must
	// go on with the same.
	version string
}

// open is an opener.
func (d *direct) open(ctx context.Context, offset int64) (io.ReadCloser, int64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url.String(), nil)
	if err != nil {
		return nil, 0, err
	}
	request.Header = d.header.Clone()
	if offset > 0 {
		if !d.pinned && d.version == "" {
			return nil, 0, fmt.Errorf("the connection was cut after %d bytes, and the server names no version by which to go on; give --digest, or try again", offset)
		}
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		if !d.pinned {
			request.Header.Set("If-Range", d.version)
		}
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, 0, err
	}
	switch {
	case response.StatusCode == http.StatusOK && offset == 0:
		d.version = version(response.Header)
		return response.Body, response.ContentLength, nil
	case response.StatusCode == http.StatusPartialContent && offset > 0:
		return response.Body, wholeSize(response, offset), nil
	case response.StatusCode == http.StatusRequestedRangeNotSatisfiable && d.pinned:
		response.Body.Close()
		return http.NoBody, offset, nil // all of it is here already, or it is another file: the digest says
	case response.StatusCode == http.StatusOK && d.pinned:
		// The server begins again: what is here already is passed over.
		if _, err := io.CopyN(io.Discard, response.Body, offset); err != nil {
			response.Body.Close()
			return nil, 0, fmt.Errorf("the server begins again, and with less than is here: %w", err)
		}
		return response.Body, response.ContentLength, nil
	case response.StatusCode == http.StatusOK:
		response.Body.Close()
		return nil, 0, errors.New("the file changed while it was fetched; try again")
	}
	defer response.Body.Close()
	return nil, 0, statusError(d.url.Redacted(), response)
}

// version is what If-Range may name (RFC 9110, section 13.1.5), or nothing.
func version(h http.Header) string {
	if tag := h.Get("ETag"); tag != "" && !strings.HasPrefix(tag, "W/") {
		return tag
	}
	return ""
}

// wholeSize is the size of the file of which an answer is the part from offset
// on; -1 when it is not said.
func wholeSize(r *http.Response, offset int64) int64 {
	if r.ContentLength < 0 {
		return -1
	}
	return offset + r.ContentLength
}

// fetchDirect downloads a URL that is nobody's upstream.
func (a *app) fetchDirect(ctx context.Context, u *url.URL, want blob.Digest, o fetchOptions) (result, error) {
	source := &direct{url: u, header: http.Header{}, pinned: want != ""}
	for _, h := range o.headers {
		k, v, ok := strings.Cut(h, ":")
		if !ok {
			return result{}, fmt.Errorf("%w: header %q is not 'Name: value'", settings.ErrUsage, h)
		}
		source.header.Add(strings.TrimSpace(k), strings.TrimSpace(v))
	}
	progress := a.newProgress()
	defer progress.wait()
	got, size, err := download(ctx, o.out, want, source.open, progress.bar(filepath.Base(o.out)))
	if err != nil {
		return result{}, err
	}
	return result{Digest: string(got), Bytes: size, Via: "direct"}, nil
}

// fetchBlob downloads one blob through the agent.
func (a *app) fetchBlob(ctx context.Context, g *registry, d blob.Digest, out string) (result, error) {
	progress := a.newProgress()
	defer progress.wait()
	got, size, err := download(ctx, out, d, func(ctx context.Context, offset int64) (io.ReadCloser, int64, error) {
		return g.blob(ctx, d, offset)
	}, progress.bar(short(d)))
	if err != nil {
		return result{}, err
	}
	return result{Digest: string(got), Bytes: size, Via: "agent"}, nil
}

// short is a digest as people compare it.
func short(d blob.Digest) string { return d.Encoded()[:12] }
