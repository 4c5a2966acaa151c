package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
)

// within separates a repository from what lies in it: no name holds it.
const within = "/_/"

func keyBlob(d blob.Digest) string     { return "blob/" + string(d) }
func keyMap(d blob.Digest) string      { return "map/" + string(d) }
func keyRepository(repo string) string { return "repo/" + repo }
func keyUpload(id string) string       { return "upload/" + id }

func keyLink(repo string, d blob.Digest) string     { return "link/" + repo + within + string(d) }
func keyManifest(repo string, d blob.Digest) string { return "manifest/" + repo + within + string(d) }
func keyLease(repo string, d blob.Digest) string    { return "lease/" + repo + within + string(d) }
func keyTag(repo, tag string) string                { return "tag/" + repo + within + tag }
func keyTomb(repo, tag string) string               { return "tomb/" + repo + within + tag }
func keyReferrers(repo string, subject blob.Digest) string {
	return "referrer/" + repo + within + string(subject) + "/"
}
func keyHeldBlob(d blob.Digest, repo string) string     { return "held/" + string(d) + "/b/" + repo }
func keyHeldManifest(d blob.Digest, repo string) string { return "held/" + string(d) + "/m/" + repo }

// keyTrash orders the trash by the time from which it may be deleted.
func keyTrash(due time.Time, object string) string {
	return fmt.Sprintf("trash/%020d/%s", due.UnixNano(), object)
}

// splitWithin takes a key "<kind>/<repository>/_/<name>" apart.
func splitWithin(key string) (repo, name string) {
	_, rest, _ := strings.Cut(key, "/")
	repo, name, _ = strings.Cut(rest, within)
	return repo, name
}

// blobRecord says where the bytes of a digest are.
type blobRecord struct {
	Object string `json:"object"`
	// MapObject holds the piece map when it is too large for its own key.
	MapObject string    `json:"mapObject,omitempty"`
	Size      int64     `json:"size"`
	Created   time.Time `json:"created"`
	// Linked changes with every new link, so that a compare on this record
	// notices one.
	Linked time.Time `json:"linked"`
}

type linkRecord struct {
	Size   int64     `json:"size"`
	Linked time.Time `json:"linked"`
}

type leaseRecord struct {
	Until time.Time `json:"until"`
}

type manifestRecord struct {
	MediaType    string        `json:"mediaType"`
	Size         int64         `json:"size"`
	ArtifactType string        `json:"artifactType,omitempty"`
	Subject      blob.Digest   `json:"subject,omitempty"`
	Children     []blob.Digest `json:"children,omitempty"` // config, layers, manifests
	Pushed       time.Time     `json:"pushed"`
}

// tagRecord is what a tag names, as one version of it.
type tagRecord struct {
	Digest    blob.Digest `json:"digest,omitempty"` // "" in a tombstone
	MediaType string      `json:"mediaType,omitempty"`
	Size      int64       `json:"size,omitempty"`
	Time      time.Time   `json:"time"`
	version
}

// version names one write of a tag: which data centre made it, when by its
// hybrid logical clock, and the latest version of each that it had seen.
type version struct {
	Clock  Clock            `json:"clock"`
	Origin string           `json:"origin"`
	Seen   map[string]Clock `json:"seen,omitempty"`
}

// seenWith is the versions seen, with v itself.
func (v version) seenWith(more map[string]Clock) map[string]Clock {
	out := map[string]Clock{}
	for origin, clock := range more {
		out[origin] = clock
	}
	for origin, clock := range v.Seen {
		out[origin] = max(out[origin], clock)
	}
	if v.Clock != 0 {
		out[v.Origin] = max(out[v.Origin], v.Clock)
	}
	return out
}

// get reads a record. An absent one is revision 0 and no error.
func get[T any](ctx context.Context, s meta.Store, key string) (record T, revision meta.Revision, err error) {
	v, err := s.Get(ctx, key)
	if errors.Is(err, meta.ErrNotFound) {
		return record, 0, nil
	}
	if err != nil {
		return record, 0, fmt.Errorf("read %s: %w", key, err)
	}
	if err := decode(v, &record); err != nil {
		return record, 0, err
	}
	return record, v.Revision, nil
}

func decode(v meta.Value, record any) error {
	if err := json.Unmarshal(v.Data, record); err != nil {
		return fmt.Errorf("metadata of %s is damaged; run supernode verify: %w", v.Key, err)
	}
	return nil
}

// put makes the op that writes a record.
func put(key string, record any) meta.Op { return meta.Put(key, encode(record)) }

// encode writes a record; records are plain structs, which always encode.
func encode(record any) []byte {
	raw, err := json.Marshal(record)
	if err != nil {
		panic(fmt.Sprintf("registry: encode %T: %v", record, err))
	}
	return raw
}
