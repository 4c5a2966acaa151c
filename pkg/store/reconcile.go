package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// found is a file under blobs/.
type found struct {
	size     int64
	modified time.Time
}

// reconcile brings the index and the files together: an entry without its file
// goes, a partial file without an entry goes, a complete file without an
// entry is verified in the background and taken in.
func (s *Store) reconcile() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	complete, err := s.scanBlobs()
	if err != nil {
		return err
	}
	partial, err := s.scanPartial()
	if err != nil {
		return err
	}
	err = s.index.records(func(key string, r record, err error) {
		d, invalid := blob.ParseDigest(key)
		if err = errors.Join(err, invalid); err != nil {
			s.log.Warn("an index entry can't be read; dropped", "key", key, "error", err)
			s.markDirty(blob.Digest(key), nil)
			return
		}
		file, ok := complete[d]
		if !r.complete {
			file, ok = partial[d]
		}
		if !ok || file.size != r.size {
			s.log.Info("an index entry has no file of its size; dropped", "digest", d, "complete", r.complete)
			s.markDirty(d, nil)
			return
		}
		if r.complete {
			delete(complete, d)
		} else {
			delete(partial, d)
		}
		s.entries[d] = &entry{digest: d, record: r, saved: r.access}
		s.used += r.size
	})
	if err != nil {
		return fmt.Errorf("read the index: %w", err)
	}
	for d := range partial {
		if err := s.root.Remove(partialName(d)); err != nil {
			return fmt.Errorf("remove what was left over: %w", err)
		}
	}
	if err := s.makeRoom(0); err != nil {
		s.log.Warn("more is leased than may be kept", "error", err)
	}
	if len(complete) > 0 {
		s.settled.Add(1)
		s.work.Go(func() {
			defer s.settled.Done()
			s.adopt(complete)
		})
	}
	return nil
}

// scanBlobs finds the complete files. What has no digest for a name is left
// alone.
func (s *Store) scanBlobs() (map[blob.Digest]found, error) {
	out := make(map[blob.Digest]found)
	err := fs.WalkDir(s.root.FS(), blobsDir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		algorithm := path.Base(path.Dir(path.Dir(name)))
		d, err := blob.ParseDigest(algorithm + ":" + entry.Name())
		if err != nil || blobName(d) != name || !entry.Type().IsRegular() {
			s.log.Warn("a file that is no blob lies in the store", "file", name)
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		out[d] = found{info.Size(), info.ModTime()}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for blobs: %w", err)
	}
	return out, nil
}

// scanPartial finds the growing files and removes what is none.
func (s *Store) scanPartial() (map[blob.Digest]found, error) {
	entries, err := fs.ReadDir(s.root.FS(), partialDir)
	if err != nil {
		return nil, fmt.Errorf("look for partial blobs: %w", err)
	}
	out := make(map[blob.Digest]found)
	for _, entry := range entries {
		d, ok := partialDigest(entry.Name())
		info, err := entry.Info()
		if err != nil {
			return nil, fmt.Errorf("look for partial blobs: %w", err)
		}
		if ok && info.Mode().IsRegular() {
			out[d] = found{info.Size(), info.ModTime()}
			continue
		}
		if err := s.root.RemoveAll(partialDir + "/" + entry.Name()); err != nil {
			return nil, fmt.Errorf("remove what was left over: %w", err)
		}
	}
	return out, nil
}

// partialDigest is the digest that a partial file's name stands for.
func partialDigest(name string) (blob.Digest, bool) {
	const algorithm = len("sha256")
	if len(name) <= algorithm || name[algorithm] != '-' {
		return "", false
	}
	d, err := blob.ParseDigest(name[:algorithm] + ":" + name[algorithm+1:])
	return d, err == nil
}

// adopt verifies files that the index doesn't know, and takes them in or
// removes them.
func (s *Store) adopt(files map[blob.Digest]found) {
	for d, file := range files {
		hashes, err := s.verifyFile(d, file.size)
		if errors.Is(err, ErrClosed) {
			return
		}
		s.settleAdoption(d, file, hashes, err)
	}
}

// verifyFile hashes a complete file against its name.
func (s *Store) verifyFile(d blob.Digest, size int64) ([]blob.PieceHash, error) {
	if err := checkSize(size); err != nil {
		return nil, err
	}
	f, err := s.root.Open(blobName(d))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c := newContent(s, &entry{digest: d, record: record{size: size}}, f)
	w := blob.NewMapWriter(size)
	if err := c.stream(blob.Range{End: size}, both{c.flat, w}); err != nil {
		return nil, err
	}
	if c.digest.Algorithm().Encode(c.flat.Sum(nil)) != d.Encoded() {
		return nil, ErrDigestMismatch
	}
	return w.Hashes(), nil
}

// both writes to two hashes.
type both struct{ a, b io.Writer }

func (t both) Write(p []byte) (int, error) {
	if n, err := t.a.Write(p); err != nil {
		return n, err
	}
	return t.b.Write(p)
}

// settleAdoption takes a verified file in, or removes a wrong one, unless the
// blob was created meanwhile: then the new one's commit replaces the file.
func (s *Store) settleAdoption(d blob.Digest, file found, hashes []blob.PieceHash, fault error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.entries[d] != nil {
		return
	}
	if fault != nil {
		s.log.Warn("a file of the store does not match its digest; removed", "digest", d, "error", fault)
		if err := s.root.Remove(blobName(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("a blob's file could not be removed", "digest", d, "error", err)
		}
		return
	}
	e := &entry{digest: d, trusted: true, record: record{size: file.size, complete: true, access: file.modified}}
	s.entries[d] = e
	s.used += file.size
	c, err := s.contentOf(e)
	if err != nil {
		s.log.Warn("a verified file could not be opened", "digest", d, "error", err)
		return
	}
	c.mu.Lock()
	c.fresh, c.hashes, c.proofLoaded, c.proofDirty = true, hashes, true, true
	c.mu.Unlock()
	s.markDirty(d, c)
	s.log.Info("a blob that the index did not know was verified and taken in", "digest", d, "size", file.size)
	s.tell(Event{Digest: d, Size: file.size, Kind: Committed})
	if err := s.makeRoom(0); err != nil {
		s.log.Warn("more is leased than may be kept", "error", err)
	}
}
