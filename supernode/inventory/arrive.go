package inventory

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/meta"
)

const (
	// seenEvery is how old the time of the last line gets before a new line is
	// written down for its own sake.
	seenEvery   = 10 * time.Minute
	maxImages   = 1000
	maxFact     = 255 // bytes of a fact that is a text
	maxSteps    = 100
	maxOutput   = 16 << 10  // bytes of a step's output
	maxReport   = 512 << 10 // bytes of a report on steps
	maxHostname = 253       // bytes
)

// Arrival is a host that joined, or that opened its line.
type Arrival struct {
	PeerID   string
	Hostname string // as it says; for people to read
	Pool     string // of its membership
	// Server is the ID that its join token was bound to; "" for a host that
	// came by itself.
	Server string
}

// derived makes an ID that is the same whenever it is made of the same.
func derived(kind string, of ...string) string {
	sum := sha256.Sum256([]byte("shoal server v1\x00" + kind + "\x00" + strings.Join(of, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// hostName reports whether a host's own name can be its server's name.
func hostName(s string) bool {
	return s != "" && len(s) <= maxHostname && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._-", c)
	})
}

// Arrived finds the server of a host, or writes it down: the one that its join
// token was made for, the one that it was before, or a new one. A server that
// was being made is initialising from now on. A host whose server is retired
// keeps that; it is the caller's to turn it away.
func (i *Inventory) Arrived(ctx context.Context, a Arrival) (Server, error) {
	s, err := i.arrived(ctx, a)
	if err != nil {
		return s, fmt.Errorf("note that host %.70q of pool %s arrived: %w", a.Hostname, a.Pool, err)
	}
	return s, nil
}

func (i *Inventory) arrived(ctx context.Context, a Arrival) (Server, error) {
	id, err := i.serverOf(ctx, a)
	if err != nil {
		return Server{}, err
	}
	s, err := i.change(ctx, id, func(s *Server) (besides, error) { return besides{}, i.arrive(ctx, s, a) })
	if id == derived(joined, a.PeerID) && (errors.Is(err, ErrNoServer) || err == nil && s.Phase == Retired) {
		return i.begin(ctx, id, a)
	}
	return s, err
}

// serverOf is the ID of the server that has arrived; there may be none yet.
func (i *Inventory) serverOf(ctx context.Context, a Arrival) (string, error) {
	if a.Server != "" {
		s, _, err := i.readServer(ctx, a.Server)
		if err != nil || s != nil {
			return a.Server, err
		}
	}
	id, err := i.idOfPeer(ctx, a.PeerID)
	if err != nil || id == "" {
		return derived(joined, a.PeerID), err
	}
	s, _, err := i.readServer(ctx, id)
	if err == nil && (s == nil || s.Phase == Retired && !s.Joined()) {
		id = derived(joined, a.PeerID) // a machine that was given back, and came again
	}
	return id, err
}

func (i *Inventory) arrive(ctx context.Context, s *Server, a Arrival) error {
	now := i.cfg.Now()
	if s.Phase == Retired {
		return nil
	}
	if s.PeerID != a.PeerID {
		if s.PeerID != "" {
			s.note(now, "another host came in its place: "+a.PeerID)
		}
		s.PeerID = a.PeerID
	}
	if s.Joined() && s.Pool != a.Pool {
		s.note(now, "it joined pool "+a.Pool+", before that it was in "+s.Pool)
		s.Pool = a.Pool
	}
	if s.Hostname = a.Hostname; now.Sub(s.LastSeen) > seenEvery {
		s.LastSeen = now.UTC()
	}
	switch s.Phase {
	case Imported, Requested, Provisioning:
		s.enter(now, outcome{phase: Initialising}, "the host arrived")
	case Failed:
		if !s.failedInStep() {
			s.enter(now, outcome{phase: Initialising}, "the host arrived after all")
		}
	}
	return i.resettle(ctx, s)
}

// begin writes down a host that came by itself, for the first time or again
// after its server was retired.
func (i *Inventory) begin(ctx context.Context, id string, a Arrival) (Server, error) {
	lock := i.lock(id)
	lock.Lock()
	defer lock.Unlock()
	now := i.cfg.Now().UTC()
	s := Server{
		ID: id, Name: a.Hostname, Pool: a.Pool, Phase: Initialising, Provider: joined, Released: true, PeerID: a.PeerID,
		Hostname: a.Hostname, Created: now, PhaseSince: now, LastSeen: now,
	}
	s.note(now, "it joined by itself")
	for range conflictTries {
		have, revision, err := i.readServer(ctx, id)
		if err != nil {
			return s, err
		}
		if have != nil && have.Phase != Retired {
			return *have, nil
		}
		if s.Name, err = i.freeName(ctx, a.Hostname, id); err != nil {
			return s, err
		}
		err = i.commit(ctx, nil, s, revision, besides{})
		if !errors.Is(err, meta.ErrConflict) && !errors.Is(err, ErrExists) {
			return s, err
		}
	}
	return s, fmt.Errorf("write server %s: %w; try again", id, meta.ErrConflict)
}

// freeName is a name for a host that came by itself: its own, unless another
// server has that.
func (i *Inventory) freeName(ctx context.Context, hostname, id string) (string, error) {
	if !hostName(hostname) || len(hostname) > maxHostname-len(id) {
		return "host-" + id, nil
	}
	has, err := i.idOf(ctx, hostname)
	if err != nil || has == "" || has == id {
		return hostname, err
	}
	return hostname + "-" + id[:6], nil
}

// profileOf is the name of the profile of a pool's servers, "" for none.
func (i *Inventory) profileOf(ctx context.Context, pool string) (string, error) {
	p, _, err := meta.ReadRecord[Pool](ctx, i.cfg.Meta, poolPrefix+pool)
	if err != nil || p == nil {
		return "", err
	}
	return p.Profile, nil
}

// Gone notes when a host's line closed.
func (i *Inventory) Gone(ctx context.Context, peerID string) error {
	return i.changePeer(ctx, peerID, "note that a host went away", func(s *Server) (besides, error) {
		s.LastSeen = i.cfg.Now().UTC()
		return besides{}, nil
	})
}

// SetFacts keeps what a host found out about itself, in place of what it told
// before.
func (i *Inventory) SetFacts(ctx context.Context, peerID string, f *shoalv1.Facts) error {
	if err := checkFacts(f); err != nil {
		return err
	}
	return i.changePeer(ctx, peerID, "keep the facts of a host", func(s *Server) (besides, error) {
		s.Facts = f
		return besides{}, i.resettle(ctx, s)
	})
}

func checkFacts(f *shoalv1.Facts) error {
	if f == nil {
		return fmt.Errorf("a report without facts is %w", ErrInvalid)
	}
	for _, text := range []string{f.Hostname, f.Arch, f.Os, f.Kernel, f.Rack, f.Zone, f.Engine, f.EngineVersion, f.AgentVersion} {
		if len(text) > maxFact {
			return fmt.Errorf("a fact of %d bytes is %w: at most %d are kept", len(text), ErrInvalid, maxFact)
		}
	}
	if len(f.Images) > maxImages || slices.ContainsFunc(f.Images, func(d string) bool { return len(d) > maxFact }) {
		return fmt.Errorf("%d images are %w: at most %d are kept", len(f.Images), ErrInvalid, maxImages)
	}
	if f.CpuMilli < 0 || f.MemoryBytes < 0 || f.DiskBytes < 0 || f.DiskFreeBytes < 0 {
		return fmt.Errorf("facts below 0 are %w", ErrInvalid)
	}
	return nil
}

// SetSteps keeps how a host stands to its pool's profile, in place of what it
// told before. When all steps hold, a server that is initialising is ready;
// when one failed, it is failed, until a later report says otherwise.
func (i *Inventory) SetSteps(ctx context.Context, peerID string, r *shoalv1.ReportStepsRequest) error {
	if err := checkSteps(r); err != nil {
		return err
	}
	raw, err := proto.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the steps of a host: %w", err)
	}
	if len(raw) > maxReport {
		return fmt.Errorf("a report of %d bytes on steps is %w: at most %d are kept", len(raw), ErrInvalid, maxReport)
	}
	return i.changePeer(ctx, peerID, "keep the steps of a host", func(s *Server) (besides, error) {
		profile, err := i.profileOf(ctx, s.Pool)
		if err != nil {
			return besides{}, err
		}
		s.enter(i.cfg.Now(), settle(*s, profile, report{r.Profile, r.Done, r.DryRun, r.Steps}), "")
		return besides{ops: []meta.Op{meta.Put(stepsPrefix+s.ID, raw)}}, nil
	})
}

func checkSteps(r *shoalv1.ReportStepsRequest) error {
	if len(r.Steps) > maxSteps || len(r.Profile) > maxName || len(r.OrderId) > maxFact {
		return fmt.Errorf("a report of %d steps is %w: at most %d are kept", len(r.Steps), ErrInvalid, maxSteps)
	}
	for _, s := range r.Steps {
		if len(s.Name) > maxName || len(s.Output) > maxOutput || len(s.Error) > maxOutput {
			return fmt.Errorf("step %.70q is %w: its output may have %d bytes", s.Name, ErrInvalid, maxOutput)
		}
	}
	return nil
}

func (i *Inventory) readReport(ctx context.Context, id string) (report, error) {
	v, err := i.cfg.Meta.Get(ctx, stepsPrefix+id)
	if errors.Is(err, meta.ErrNotFound) {
		return report{}, nil
	}
	if err != nil {
		return report{}, err
	}
	var r shoalv1.ReportStepsRequest
	if err := proto.Unmarshal(v.Data, &r); err != nil {
		return report{}, fmt.Errorf("read %s: %w", v.Key, err)
	}
	return report{r.Profile, r.Done, r.DryRun, r.Steps}, nil
}

// resettle puts a server into the phase that all that is known of it says.
func (i *Inventory) resettle(ctx context.Context, s *Server) error {
	profile, err := i.profileOf(ctx, s.Pool)
	if err != nil {
		return err
	}
	told, err := i.readReport(ctx, s.ID)
	if err != nil {
		return err
	}
	s.enter(i.cfg.Now(), settle(*s, profile, told), "")
	return nil
}

// settlePool does that for a pool whose profile may be another one now.
func (i *Inventory) settlePool(ctx context.Context, pool string) error {
	list, err := i.Servers(ctx, pool)
	if err != nil {
		return err
	}
	for _, s := range list {
		if s.Phase != Initialising {
			continue
		}
		_, err := i.change(ctx, s.ID, func(s *Server) (besides, error) { return besides{}, i.resettle(ctx, s) })
		if err != nil && !errors.Is(err, ErrNoServer) {
			return fmt.Errorf("look at the servers of pool %s again: %w", pool, err)
		}
	}
	return nil
}

// changePeer changes the server of a peer that speaks.
func (i *Inventory) changePeer(ctx context.Context, peerID, what string, edit func(*Server) (besides, error)) error {
	id, err := i.idOfPeer(ctx, peerID)
	if err == nil {
		_, err = i.change(ctx, id, edit)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// ByID returns one by its ID, without its steps, which may be long. The error
// wraps ErrNoServer.
func (i *Inventory) ByID(ctx context.Context, id string) (Server, error) {
	s, _, err := i.readServer(ctx, id)
	if err != nil {
		return Server{}, fmt.Errorf("look server %s up: %w", id, err)
	}
	if s == nil {
		return Server{}, fmt.Errorf("%.70q: %w", id, ErrNoServer)
	}
	return *s, nil
}

// OfPeer finds the server of a peer, whatever its phase, without its steps.
// The error wraps ErrNoServer.
func (i *Inventory) OfPeer(ctx context.Context, peerID string) (Server, error) {
	id, err := i.idOfPeer(ctx, peerID)
	if err != nil {
		return Server{}, fmt.Errorf("look the server of a peer up: %w", err)
	}
	return i.ByID(ctx, id)
}
