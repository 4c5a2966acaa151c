// Package objects keeps the supernode's bytes: objects that are written once
// under a key the store invents, and never change. The key says nothing about
// the content; who maps a digest to a key decides what lives. Committing an
// upload therefore copies nothing, on files as on an S3-compatible store.
//
// Package objecttest is the conformance suite, NewMemory the in-memory twin.
package objects

import (
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// Errors of a Store; test for them with errors.Is.
var (
	// ErrNotFound says that there is no object or upload of that name.
	ErrNotFound = errors.New("no such object")
	// ErrBusy says that another writer has this upload open.
	ErrBusy = errors.New("the upload is being written to already")
	// ErrShort says that an upload holds fewer bytes than the offset asked for.
	ErrShort = errors.New("the upload holds fewer bytes than that")
	// ErrFull says that the disk is full.
	ErrFull = errors.New("no room left for objects; free disk space or run the garbage collection")
)

// Info is what a listing says of an object or an upload.
type Info struct {
	Key      string    // of an object, or the ID of an upload
	Size     int64     // bytes
	Modified time.Time // when an object was committed; the last write of an upload
}

// Object is an open object. Its bytes stay readable until Close, even when
// the object is deleted meanwhile.
type Object interface {
	io.ReaderAt
	io.Closer
	Size() int64 // bytes
}

// Filer is what an Object may offer beside: the file itself, for sendfile.
// The file belongs to the Object, which closes it.
type Filer interface{ File() *os.File }

// Writer is an open upload. It is not for concurrent use. An upload that was
// neither committed nor aborted can be resumed, after a restart too.
type Writer interface {
	// Write appends. A short write leaves the bytes it counts.
	io.Writer
	// ID names the upload for Resume and Discard.
	ID() string
	// Offset is the number of bytes written, earlier writers' included.
	Offset() int64
	// Flush makes the bytes durable up to Offset.
	Flush(ctx context.Context) error
	// Commit makes the upload an object, durably, and returns its new key.
	// The writer is closed.
	Commit(ctx context.Context) (key string, err error)
	// Abort removes the upload. After Commit it does nothing.
	Abort(ctx context.Context) error
	// Close leaves the upload for Resume. After Commit or Abort it does nothing.
	Close() error
}

// Store is an object store. Its methods may be called at once from many
// goroutines.
type Store interface {
	// Create begins an upload.
	Create(ctx context.Context) (Writer, error)
	// Resume opens an upload at an offset up to which it was flushed; what was
	// written behind is dropped. ErrNotFound, ErrBusy, ErrShort.
	Resume(ctx context.Context, id string, offset int64) (Writer, error)
	// Discard removes an upload; one that is not there is no error. ErrBusy.
	Discard(ctx context.Context, id string) error
	// Open opens an object, or gives ErrNotFound.
	Open(ctx context.Context, key string) (Object, error)
	// Delete removes an object; one that is not there is no error.
	Delete(ctx context.Context, key string) error
	// List lists objects in the order of their keys, those after a key only;
	// at most limit, which must be positive.
	List(ctx context.Context, after string, limit int) ([]Info, error)
	// Uploads lists the uploads that were neither committed nor aborted.
	Uploads(ctx context.Context) ([]Info, error)
}

// Roomer is what a Store may offer beside: how many bytes its disk has left for
// us, and how many it has in all.
type Roomer interface {
	Room() (free, total int64, err error)
}

// validKey tells a key or ID of this package from anything else, so that a
// name never becomes a path.
func validKey(key string) bool {
	if len(key) != keyLength {
		return false
	}
	for _, c := range []byte(key) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
