package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
)

// VerifyProgress says how far a verification has come.
type VerifyProgress struct {
	Blobs int
	Bytes int64 // hashed
}

// Problem is something that a verification found.
type Problem struct {
	Repository string // "" when it is about the bytes themselves
	Name       string // digest or tag
	What       string
}

// VerifyReport is the outcome of a verification.
type VerifyReport struct {
	VerifyProgress
	Problems []Problem
	More     int // problems beyond those listed
}

// maxProblems bounds the problems that a report lists.
const maxProblems = 10_000

func (r *VerifyReport) add(repository, name, format string, args ...any) {
	if len(r.Problems) >= maxProblems {
		r.More++
		return
	}
	r.Problems = append(r.Problems, Problem{repository, name, fmt.Sprintf(format, args...)})
}

// Verify hashes every blob again and checks that the metadata fits together,
// while the registry stays in use. progress, if not nil, is called after each
// blob. The error is that of the verification itself; what is wrong with the
// content stands in the report.
func (g *Registry) Verify(ctx context.Context, progress func(VerifyProgress)) (VerifyReport, error) {
	var report VerifyReport
	for v, err := range meta.Scan(ctx, g.Meta, keyBlob("")) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return report, fmt.Errorf("verify: %w", err)
		}
		if err := g.verifyBlob(ctx, v, &report); err != nil {
			return report, fmt.Errorf("verify: %w", err)
		}
		if progress != nil {
			progress(report.VerifyProgress)
		}
	}
	for _, check := range []struct {
		prefix string
		check  func(context.Context, meta.Value) (string, error)
	}{
		{"link/", g.checkLink}, {"manifest/", g.checkManifest}, {"tag/", g.checkTag},
		{"counted/", g.checkCounted}, {"usage/", g.checkUsage},
	} {
		if err := g.verifyKeys(ctx, check.prefix, check.check, &report); err != nil {
			return report, fmt.Errorf("verify: %w", err)
		}
	}
	return report, nil
}

// verifyKeys runs a check on each record. What looks wrong counts only if the
// record is still the same afterwards: else it was changed in between.
func (g *Registry) verifyKeys(ctx context.Context, prefix string, check func(context.Context, meta.Value) (string, error), report *VerifyReport) error {
	for v, err := range meta.Scan(ctx, g.Meta, prefix) {
		if err != nil {
			return err
		}
		what, err := check(ctx, v)
		if err != nil {
			return err
		}
		if what == "" {
			continue
		}
		if same, err := g.unchanged(ctx, v); err != nil {
			return err
		} else if same {
			repository, name := splitWithin(v.Key)
			report.add(repository, name, "%s", what)
		}
	}
	return nil
}

func (g *Registry) unchanged(ctx context.Context, v meta.Value) (bool, error) {
	now, err := g.Meta.Get(ctx, v.Key)
	if errors.Is(err, meta.ErrNotFound) {
		return false, nil
	}
	return now.Revision == v.Revision, err
}

func (g *Registry) verifyBlob(ctx context.Context, v meta.Value, report *VerifyReport) error {
	d := blob.Digest(strings.TrimPrefix(v.Key, keyBlob("")))
	var record blobRecord
	if err := decode(v, &record); err != nil {
		report.add("", string(d), "%v", err)
		return nil
	}
	what := g.checkBytes(ctx, d, record)
	if err := ctx.Err(); err != nil {
		return err
	}
	report.Blobs++
	report.Bytes += record.Size
	if what == "" {
		return nil
	}
	same, err := g.unchanged(ctx, v)
	if err == nil && same {
		report.add("", string(d), "%s", what)
	}
	return err
}

// checkBytes hashes a blob, whole and in pieces. It returns what is wrong.
func (g *Registry) checkBytes(ctx context.Context, d blob.Digest, record blobRecord) string {
	object, err := g.Objects.Open(ctx, record.Object)
	if err != nil {
		return fmt.Sprintf("its bytes can't be opened (%v); push it again", err)
	}
	defer object.Close()
	if object.Size() != record.Size {
		return fmt.Sprintf("%d bytes are there, %d were pushed; push it again", object.Size(), record.Size)
	}
	h, err := newHasher(d.Algorithm().String())
	if err != nil {
		return err.Error()
	}
	if _, err := io.Copy(h, &untilDone{ctx, io.NewSectionReader(object, 0, record.Size)}); err != nil {
		return fmt.Sprintf("its bytes can't be read (%v); push it again", err)
	}
	if got := digestOf(h.algorithm, h.flat); got != d {
		return fmt.Sprintf("its bytes have the digest %s; delete it and push it again", got)
	}
	m, err := g.PieceMap(ctx, d)
	if err != nil {
		return fmt.Sprintf("its piece map can't be read (%v)", err)
	}
	if m.Digest != d || m.Size != record.Size || !slices.Equal(m.Hashes, h.tree.Hashes()) {
		return "its piece map is not that of its bytes"
	}
	return ""
}

// untilDone reads until the context ends.
type untilDone struct {
	ctx context.Context
	io.Reader
}

func (u *untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Reader.Read(p)
}

func (g *Registry) exists(ctx context.Context, key string) (bool, error) {
	_, err := g.Meta.Get(ctx, key)
	if errors.Is(err, meta.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// firstMissing names the first of some keys that is not there.
func (g *Registry) firstMissing(ctx context.Context, keys ...string) (string, error) {
	for _, key := range keys {
		if there, err := g.exists(ctx, key); err != nil || !there {
			return "its record " + key + " is missing", err
		}
	}
	return "", nil
}

func (g *Registry) checkLink(ctx context.Context, v meta.Value) (string, error) {
	repository, name := splitWithin(v.Key)
	d := blob.Digest(name)
	return g.firstMissing(ctx, keyBlob(d), keyHeldBlob(d, repository), keyRepository(repository), keyCounted(projectOf(repository), d))
}

func (g *Registry) checkTag(ctx context.Context, v meta.Value) (string, error) {
	repository, _ := splitWithin(v.Key)
	var record tagRecord
	if err := decode(v, &record); err != nil {
		return err.Error(), nil
	}
	return g.firstMissing(ctx, keyManifest(repository, record.Digest))
}

func (g *Registry) checkManifest(ctx context.Context, v meta.Value) (string, error) {
	repository, name := splitWithin(v.Key)
	d := blob.Digest(name)
	var record manifestRecord
	if err := decode(v, &record); err != nil {
		return err.Error(), nil
	}
	keys := []string{keyBlob(d), keyHeldManifest(d, repository), keyRepository(repository), keyCounted(projectOf(repository), d)}
	if record.Subject != "" {
		keys = append(keys, keyReferrers(repository, record.Subject)+string(d))
	}
	if what, err := g.firstMissing(ctx, keys...); what != "" || err != nil {
		return what, err
	}
	blobs, _, err := get[blobRecord](ctx, g.Meta, keyBlob(d))
	if err != nil {
		return "", err
	}
	body, err := g.readObject(ctx, blobs.Object)
	if err != nil {
		return "", nil //nolint:nilerr // reported with the blob
	}
	m, err := parseManifest(record.MediaType, body)
	if err != nil {
		return err.Error(), nil
	}
	if !slices.Equal(m.children, record.Children) || m.subject != record.Subject {
		return "its record does not name what it names", nil
	}
	for _, part := range m.required {
		if there, err := g.exists(ctx, keyLink(repository, part.Digest)); err != nil || !there {
			return fmt.Sprintf("the repository does not hold its blob %s; push it again", part.Digest), err
		}
	}
	return "", nil
}
