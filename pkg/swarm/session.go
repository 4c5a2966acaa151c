package swarm

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm/policy"
)

const (
	// tick is how often a session looks for pieces that are late and for
	// pieces that others put into the sink.
	tick = 50 * time.Millisecond
	// moment is how long what neighbours gained is gathered before it is looked
	// at.
	moment = 10 * time.Millisecond
	// proofPatience is how long a session looks for signed hashes before it
	// says that there are none.
	proofPatience = 3 * time.Second
	// absences is how often in a row a peer must know nothing of the blob
	// before there is no use in waiting for it.
	absences = 6
)

// session fetches one blob. All of it is owned by the goroutine that runs
// run; others reach it through events and grants.
type session struct {
	e      *Exchange
	req    FetchRequest
	sink   Sink
	class  policy.Class
	ctx    context.Context
	log    *slog.Logger
	size   int64
	pieces int

	events chan func()
	grants chan struct{} // slots that were waited for
	work   sync.WaitGroup

	links    map[string]*link // by peer ID
	order    []*link          // the same, as they came
	picker   *policy.Picker   // its peers are guarded by Exchange.mu
	rand     *rand.Rand
	jobs     map[int]*job
	attempts map[*attempt]struct{}
	pace     policy.Pace
	known    blob.Bitmap // pieces whose signed hash is known
	gone     blob.Bitmap // pieces that have left the seed, as a 204 told
	last     bool        // no more peer lists will come
	complete bool        // all hashes are known
	fatal    error
	due      bool        // a step is to be made
	soon     *time.Timer // fires when a step is to be made after a moment
	armed    bool        // soon runs

	hunger policy.Starving
	proof  proofState
	demand blob.Bitmap // as of the last step

	againAt time.Time // nothing scarce is asked for before
}

func newSession(ctx context.Context, e *Exchange, req FetchRequest, class policy.Class) *session {
	size := req.Sink.Size()
	pieces := blob.PieceCount(size)
	r := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	return &session{
		e: e, req: req, sink: req.Sink, class: class, ctx: ctx, size: size, pieces: pieces,
		log:      e.cfg.Log.With("digest", req.Sink.Digest()),
		events:   make(chan func(), 64),
		grants:   make(chan struct{}, e.params.Downloads),
		links:    map[string]*link{},
		picker:   policy.NewPicker(e.params, pieces, r),
		rand:     r,
		jobs:     map[int]*job{},
		attempts: map[*attempt]struct{}{},
		due:      true,
		soon:     time.NewTimer(moment),
		armed:    true,
		known:    blob.NewBitmap(pieces),
		gone:     blob.NewBitmap(pieces),
		demand:   blob.NewBitmap(pieces),
		proof:    proofState{tried: map[string]bool{}, denied: map[string]bool{}, running: map[string]bool{}},
	}
}

// post hands f to the session's goroutine; false when the session has ended.
func (s *session) post(f func()) bool {
	select {
	case s.events <- f:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// run is the session's loop. What a neighbour gained is looked at a moment
// later than the rest: with twenty neighbours there is always more to come.
func (s *session) run() error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	s.proof.began = time.Now()
	s.fed(s.proof.began)
	s.learn()
	peers := s.req.Peers
	s.last = peers == nil
	_, demand := s.sink.Demand()
	_, _, proof := s.sink.Proof()
	for {
		if s.due {
			s.due = false
			if done, err := s.step(time.Now()); done {
				return err
			}
		}
		select {
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		case list, ok := <-peers:
			if ok {
				s.relink(list)
			} else {
				peers, s.last = nil, true
			}
			s.due = true
		case f := <-s.events:
			f()
			s.drain()
		case <-s.grants:
			s.fill(time.Now(), s.want(), true)
		case <-demand:
			_, demand = s.sink.Demand()
			s.due = true
		case <-proof:
			_, _, proof = s.sink.Proof()
			s.learn()
			s.due = true
		case <-ticker.C:
			s.watch(time.Now())
			s.due = true
		case <-s.soon.C:
			s.armed = false
			s.due = true
		}
	}
}

// later asks for a step in a moment.
func (s *session) later() {
	if !s.armed {
		s.armed = true
		s.soon.Reset(moment)
	}
}

// drain runs what else has come in, so that many small events cost one step.
func (s *session) drain() {
	for range cap(s.events) {
		select {
		case f := <-s.events:
			f()
		default:
			return
		}
	}
}

// step does whatever can be done now. done means that the fetch is over.
func (s *session) step(now time.Time) (done bool, err error) {
	if s.fatal != nil {
		return true, s.fatal
	}
	missing := s.sink.Missing()
	if missing.Count() == 0 {
		// Those that are still at it are called off; one may just have brought
		// the last piece, and its news is waited for.
		for a := range s.attempts {
			a.cancel(errEnded)
		}
		return len(s.attempts) == 0, nil
	}
	s.askAbsent(now)
	s.wantProof(now)
	want := s.open(missing)
	s.fill(now, want, false)
	s.askSeeds(now, want)
	s.hedge(now)
	return s.hopeless(now)
}

// want is which pieces may be asked for.
func (s *session) want() blob.Bitmap { return s.open(s.sink.Missing()) }

// open is those of the missing pieces that are not on their way and have a
// signed hash. missing itself is changed.
func (s *session) open(missing blob.Bitmap) blob.Bitmap {
	if !s.complete {
		for i := range missing.All() {
			if !s.known.Has(i) {
				missing.Clear(i)
			}
		}
	}
	for i := range s.jobs {
		missing.Clear(i)
	}
	return missing
}

// fill gives free download slots to the pieces that the picker chooses.
// granted means that one slot is already this session's. What is asked for is
// taken out of want.
func (s *session) fill(now time.Time, want blob.Bitmap, granted bool) {
	s.demand, _ = s.sink.Demand()
	for {
		if !granted && !s.e.acquire(s) {
			s.fed(now) // it is this host's own slots that it waits for
			return
		}
		granted = true
		s.e.mu.Lock()
		choice, ok := s.picker.Pick(now, want, s.demand)
		s.e.mu.Unlock()
		if !ok {
			s.e.release(s)
			return
		}
		want.Clear(choice.Piece)
		release, ok := s.req.Claim(choice.Piece)
		if !ok {
			continue // somebody else fills it
		}
		granted = false
		s.start(&attempt{link: s.links[choice.Peer], piece: choice.Piece, slot: true}, release)
	}
}

func (s *session) fed(now time.Time) { s.hunger.Fed(s.e.params, now, s.rand.Float64()) }

// learn brings up to date which pieces have a signed hash.
func (s *session) learn() {
	m, batches, _ := s.sink.Proof()
	if m != nil {
		s.known.Fill()
		s.complete, s.proof.final = true, true
		return
	}
	for _, b := range batches {
		for i := range b.Hashes {
			if at := b.First + i; at < s.pieces {
				s.known.Set(at)
			}
		}
	}
}

// hopeless reports whether the fetch must be given up.
func (s *session) hopeless(now time.Time) (bool, error) {
	if len(s.attempts) > 0 {
		return false, nil
	}
	if s.proof.none(now, s.order, s.known.Count()) {
		return true, ErrNoProof
	}
	if !s.last {
		return false, nil
	}
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	for _, l := range s.order {
		if !l.state.Hopeless(now) && l.absent < absences {
			return false, nil
		}
	}
	return true, ErrNoPeers
}

// close ends what the session began and waits for it.
func (s *session) close() {
	s.soon.Stop()
	for a := range s.attempts {
		a.cancel(errEnded)
	}
	for _, l := range s.order {
		l.client.talk.leave(l.sub)
	}
	s.work.Wait()
	s.e.mu.Lock()
	for a := range s.attempts {
		a.link.state.Outstanding--
	}
	s.e.mu.Unlock()
	for a := range s.attempts {
		if a.slot {
			s.e.release(s)
		}
	}
	for _, j := range s.jobs {
		j.release()
	}
	for _, l := range s.order {
		s.e.leaveClient(l.client)
	}
	s.e.leave(s)
}
