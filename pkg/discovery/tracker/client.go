package tracker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/blob"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

const (
	// answerWithin is how long a want waits for its answer before it is told
	// that the tracker is silent.
	answerWithin = 500 * time.Millisecond
	// callWithin bounds one call to one supernode.
	callWithin = 2 * time.Second
	// gather is how long the loop waits for more to say after a new want.
	gather = 10 * time.Millisecond
	// spacing is the shortest time between two requests, new wants excepted.
	spacing = time.Second
	// againLeast is the soonest that an answer may call for the next question.
	againLeast = 100 * time.Millisecond
	// defaultBeat is the sign of life before the tracker named another.
	defaultBeat = 30 * time.Second
	// restLeast and restMost bound the pause after no supernode answered.
	restLeast = 500 * time.Millisecond
	restMost  = 5 * time.Second
	// batchMost is how many announcements one request carries.
	batchMost = 500
	// newsMost bounds what waits to be announced.
	newsMost = 20_000
	// listWithin bounds one call of Config.Holdings.
	listWithin = 30 * time.Second
	// listAgain is how long after a failed list the next one is tried.
	listAgain = time.Minute
	// neighboursMost bounds the list that is taken from an answer.
	neighboursMost = 256
)

// Held is news of the store: a blob was committed, or is gone.
type Held struct {
	Digest blob.Digest
	Size   int64
	Gone   bool
}

// Labels is what a node says of itself.
type Labels struct {
	SwarmAddr string // host:port of the piece listener
	Rack      string
	Zone      string
}

// Config says whom to speak to and for whom.
type Config struct {
	HTTP connect.HTTPClient
	// Bases are the supernodes' URLs in the order to try.
	Bases func() []string
	// Self labels this node. It may change while the node runs.
	Self func() Labels
	// Events brings news of the store; may be nil.
	Events <-chan Held
	// Holdings lists all blobs that this node has whole, for a tracker that
	// restarted; may be nil. It may be slow, and is called without a lock and
	// beside the announcements. With an error it returns what it found so far.
	Holdings func(ctx context.Context) ([]Held, error)
	Log      *slog.Logger
}

// Client announces and finds. Run must be running for Find to be answered.
type Client struct {
	cfg  Config
	log  *slog.Logger
	kick chan struct{} // holds a value when there is something to say now

	mu      sync.Mutex // guards what follows
	wants   map[*want]bool
	news    []Held
	clients map[string]shoalv1connect.NodeServiceClient
	first   string    // the base that answered last
	rest    time.Time // no supernode answered; none is asked until then
	fails   int       // in a row
	epoch   uint64
	beat    time.Duration
	changed map[blob.Digest]bool // what the store gained or lost since the list began; nil while none is made
	listAt  time.Time            // when to list again after a failure; zero: not at all

	lists sync.WaitGroup // the list that is being made
}

// want is one Find in progress.
type want struct {
	blob.Want
	due  time.Time            // when to announce next; guarded by Client.mu
	told chan blob.Neighbours // to the Find; holds the latest, guarded by Client.mu on the sending side
}

// New makes a client.
func New(cfg Config) *Client {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Self == nil {
		cfg.Self = func() Labels { return Labels{} }
	}
	return &Client{
		cfg: cfg, log: cfg.Log, kick: make(chan struct{}, 1),
		wants: map[*want]bool{}, clients: map[string]shoalv1connect.NodeServiceClient{}, beat: defaultBeat,
	}
}

// Find announces the want until ctx ends and delivers what the tracker
// answers; the latest answer wins, and origin bytes add up. The first value
// comes within half a second: a Silent one when no supernode answered.
func (c *Client) Find(ctx context.Context, w blob.Want) <-chan blob.Neighbours {
	out := make(chan blob.Neighbours)
	one := &want{Want: w, told: make(chan blob.Neighbours, 1)}
	c.mu.Lock()
	one.due = time.Now()
	c.wants[one] = true
	resting := time.Now().Before(c.rest)
	if resting {
		one.tell(blob.Neighbours{Silent: true})
	}
	c.mu.Unlock()
	if !resting {
		signal(c.kick)
	}
	go func() {
		defer close(out)
		defer c.drop(one)
		c.deliver(ctx, one, out)
	}()
	return out
}

func (c *Client) drop(w *want) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.wants, w)
}

// deliver hands answers on, and says so when one that is waited for does not
// come in time.
func (c *Client) deliver(ctx context.Context, w *want, out chan<- blob.Neighbours) {
	late := time.NewTimer(answerWithin)
	defer late.Stop()
	for {
		var n blob.Neighbours
		select {
		case <-ctx.Done():
			return
		case n = <-w.told:
			late.Stop()
		case <-late.C:
			n = blob.Neighbours{Silent: true}
		case <-w.Nudge:
			if !c.hurry(w) {
				late.Reset(answerWithin)
				continue
			}
			n = blob.Neighbours{Silent: true}
		}
		select {
		case out <- n:
		case <-ctx.Done():
			return
		}
	}
}

// hurry announces a want at once; true when no supernode can be reached.
func (c *Client) hurry(w *want) (silent bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Now().Before(c.rest) {
		return true
	}
	w.due = time.Now()
	signal(c.kick)
	return false
}

// tell replaces an answer that was not taken; origin bytes add up. It is
// called with the client's mu held.
func (w *want) tell(n blob.Neighbours) {
	select {
	case old := <-w.told:
		n.OriginBytes += old.OriginBytes
		if n.Silent && len(n.Peers) == 0 {
			n.Peers = old.Peers
		}
	default:
	}
	w.told <- n
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run speaks to the supernodes until ctx ends.
func (c *Client) Run(ctx context.Context) {
	last := time.Time{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer c.lists.Wait()
	for {
		wait, _ := c.next(last)
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case h, ok := <-c.cfg.Events:
			if !ok {
				c.cfg.Events = nil
				continue
			}
			c.note(h)
			continue
		case <-c.kick:
			if !pause(ctx, gather) {
				return
			}
			if _, now := c.next(last); !now {
				continue
			}
		case <-timer.C:
		}
		c.speak(ctx)
		last = time.Now()
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *Client) note(h Held) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.news = append(c.news, h)
	if c.changed != nil {
		c.changed[h.Digest] = true
	}
	if len(c.news) > newsMost { // nobody listens: all is told anew when somebody does
		c.news, c.epoch = nil, 0
	}
}

// next says when there is something to say, and whether that is now.
func (c *Client) next(last time.Time) (wait time.Duration, now bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := last.Add(c.beat)
	if len(c.news) > 0 {
		at = last.Add(spacing)
	}
	for w := range c.wants {
		if w.due.Before(at) {
			at = w.due
		}
	}
	if at.Before(c.rest) {
		at = c.rest
	}
	wait = max(time.Until(at), 0)
	return wait, wait == 0
}

// speak announces what is due and hands the answers out.
func (c *Client) speak(ctx context.Context) {
	batch, news, asked := c.gather()
	answer, err := c.call(ctx, func(ctx context.Context, s shoalv1connect.NodeServiceClient) (*shoalv1.AnnounceResponse, error) {
		resp, err := s.Announce(ctx, connect.NewRequest(batch))
		if err != nil {
			return nil, err
		}
		return resp.Msg, nil
	})
	if ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.silence(err, news, asked)
		return
	}
	c.fails, c.rest = 0, time.Time{}
	if answer.BeatMs > 0 {
		c.beat = min(time.Duration(answer.BeatMs)*time.Millisecond, 5*time.Minute)
	}
	c.list(ctx, answer.Epoch)
	c.heard(answer, asked)
}

// gather makes the request: news of the store and the wants that are due.
func (c *Client) gather() (*shoalv1.AnnounceRequest, []Held, map[blob.Digest][]*want) {
	c.mu.Lock()
	defer c.mu.Unlock()
	self := c.cfg.Self()
	batch := &shoalv1.AnnounceRequest{SwarmAddr: self.SwarmAddr, Rack: self.Rack, Zone: self.Zone}
	soon := time.Now().Add(spacing / 2)
	asked := map[blob.Digest][]*want{}
	for w := range c.wants {
		if len(asked) >= batchMost {
			break
		}
		if w.due.After(soon) {
			continue
		}
		if asked[w.Digest] == nil {
			batch.Announcements = append(batch.Announcements, w.announcement())
		}
		asked[w.Digest] = append(asked[w.Digest], w)
	}
	n := min(len(c.news), batchMost)
	news := c.news[:n:n]
	c.news = c.news[n:]
	for _, h := range news {
		state := shoalv1.Announcement_COMPLETE
		if h.Gone {
			state = shoalv1.Announcement_GONE
		}
		if asked[h.Digest] == nil {
			batch.Announcements = append(batch.Announcements, &shoalv1.Announcement{
				Digest: string(h.Digest), Size: h.Size, State: state,
				PiecesHeld: int32(blob.PieceCount(h.Size)),
			})
		}
	}
	return batch, news, asked
}

func (w *want) announcement() *shoalv1.Announcement {
	a := &shoalv1.Announcement{Digest: string(w.Digest), Size: w.Size, State: shoalv1.Announcement_WANTS}
	if w.Held != nil {
		a.PiecesHeld = int32(w.Held())
	}
	if w.Origin.Ref != (blob.Ref{}) {
		a.Origin = &shoalv1.Origin{
			Registry: w.Origin.Ref.Registry, Repository: w.Origin.Ref.Repository, Token: w.Origin.Token,
		}
	}
	return a
}

// silence tells the wants that nobody answered and rests. It is called with
// mu held.
func (c *Client) silence(err error, news []Held, asked map[blob.Digest][]*want) {
	if c.fails == 0 {
		c.log.Warn("no supernode answers; neighbours are looked for without one", "err", err)
	}
	c.news = append(news, c.news...)
	rest := min(restLeast<<min(c.fails, 8), restMost)
	c.rest = time.Now().Add(rest/2 + rand.N(rest/2))
	c.fails++
	for _, list := range asked {
		for _, w := range list {
			w.due = c.rest
			w.tell(blob.Neighbours{Silent: true})
		}
	}
}

// heard hands the answers out. It is called with mu held.
func (c *Client) heard(answer *shoalv1.AnnounceResponse, asked map[blob.Digest][]*want) {
	for _, n := range answer.Neighbours {
		d := blob.Digest(n.Digest)
		for _, w := range asked[d] {
			again := min(max(time.Duration(n.AgainMs)*time.Millisecond, againLeast), time.Minute)
			w.due = time.Now().Add(again)
			w.tell(neighbours(n))
			n.OriginBytes = 0 // granted to the node, not to each that waits
		}
		delete(asked, d)
	}
	for _, list := range asked { // left without an answer
		for _, w := range list {
			w.due = time.Now().Add(spacing)
		}
	}
}

func neighbours(n *shoalv1.Neighbours) blob.Neighbours {
	out := blob.Neighbours{
		OriginBytes: max(n.OriginBytes, 0), RefusedStatus: int(n.RefusedStatus), RefusedReason: n.RefusedReason, Grant: n.Grant,
	}
	for _, p := range n.Peers[:min(len(n.Peers), neighboursMost)] {
		out.Peers = append(out.Peers, blob.Peer{
			ID: p.PeerId, Addr: p.SwarmAddr, Seed: p.Seed, Complete: p.Complete, Distance: int(p.Distance),
		})
	}
	return out
}

// Report tells the tracker of a peer that sent wrong bytes. Failing is no
// matter: the peer is banned here either way.
func (c *Client) Report(ctx context.Context, peerID string, d blob.Digest, piece int, reason string) error {
	_, err := c.call(ctx, func(ctx context.Context, s shoalv1connect.NodeServiceClient) (*shoalv1.AnnounceResponse, error) {
		_, err := s.Report(ctx, connect.NewRequest(&shoalv1.ReportRequest{
			PeerId: peerID, Digest: string(d), Piece: int32(piece), Reason: reason,
		}))
		return nil, err
	})
	if err != nil {
		return fmt.Errorf("report peer %s: %w", peerID, err)
	}
	return nil
}

// call tries the supernodes one after the other, the one that answered last
// before the rest.
func (c *Client) call(ctx context.Context, ask func(context.Context, shoalv1connect.NodeServiceClient) (*shoalv1.AnnounceResponse, error)) (*shoalv1.AnnounceResponse, error) {
	var errs []error
	for _, base := range c.order() {
		one, cancel := context.WithTimeout(ctx, callWithin)
		answer, err := ask(one, c.client(base))
		cancel()
		if err == nil {
			c.mu.Lock()
			c.first = base
			c.mu.Unlock()
			return answer, nil
		}
		errs = append(errs, fmt.Errorf("supernode %s: %w", base, err))
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 0 {
		return nil, errors.New("no supernode is known")
	}
	return nil, errors.Join(errs...)
}

func (c *Client) order() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	bases := c.cfg.Bases()
	out := make([]string, 0, len(bases))
	for _, b := range bases {
		if b == c.first {
			out = append(out, b)
		}
	}
	for _, b := range bases {
		if b != c.first {
			out = append(out, b)
		}
	}
	return out
}

func (c *Client) client(base string) shoalv1connect.NodeServiceClient {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.clients[base]
	if s == nil {
		s = shoalv1connect.NewNodeServiceClient(c.cfg.HTTP, base)
		c.clients[base] = s
	}
	return s
}

// Reachable reports whether a supernode answered the last time it was asked.
func (c *Client) Reachable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fails == 0 && c.epoch != 0
}
