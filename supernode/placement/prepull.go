package placement

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

// gateOpens reports whether every host that a container goes to has the image.
// Nothing is started before.
func gateOpens(moves []Move, hosts map[string]Prepull) bool {
	for _, m := range moves {
		if hosts[m.Server].State != PrepullReady {
			return false
		}
	}
	return len(moves) > 0
}

// fetch is one prepull while it lasts. Its goroutine owns it; the hosts' own
// goroutines speak through ends.
type fetch struct {
	r       *Runner
	name    string
	began   time.Time // the change
	service Service
	hosts   map[string]*Host
	states  map[string]Prepull
	ends    chan fetchEnd
	wait    sync.WaitGroup
}

type fetchEnd struct {
	server string
	err    error
}

// prepull has the image brought to the hosts of a change and its spares. A
// host that fails is replaced; when too few are left, or time is up, nothing
// is changed.
func (r *Runner) prepull(ctx context.Context, v versioned[Record]) error {
	record := &v.value
	version, _ := record.revision(record.Change.Revision)
	hosts, err := r.hostsByID(ctx, record.Pool)
	if err != nil {
		return err
	}
	f := &fetch{
		r: r, name: record.Name, began: record.Change.Began, service: version.Service, hosts: hosts, states: map[string]Prepull{}, ends: make(chan fetchEnd),
	}
	targets := record.Change.targets()
	slices.Sort(targets)
	for _, p := range record.Prepulls {
		if _, found := slices.BinarySearch(targets, p.Server); found { // of this change, before a restart
			f.states[p.Server] = Prepull{Server: p.Server, Host: p.Host, Asked: p.Asked}
		}
	}
	fetching, cancel := context.WithTimeout(ctx, record.Change.Until.Sub(r.cfg.Now()))
	defer f.leave()
	defer f.wait.Wait()
	defer cancel()
	for _, server := range record.Change.targets() {
		f.ask(fetching, server)
	}
	slow := time.NewTimer(record.Change.Until.Sub(r.cfg.Now()) / 2)
	defer slow.Stop()
	for {
		news := r.news(record.Name)
		latest, err := r.load(ctx, record.Name)
		if err != nil || latest.revision != v.revision {
			return errors.Join(err, meta.ErrConflict) // look at it anew
		}
		var failed []fetchEnd
		if gateOpens(record.Change.Moves, f.states) {
			if failed, err = r.left(ctx, record); err != nil {
				return err
			}
			if len(failed) == 0 {
				return r.lift(ctx, v, f)
			}
		} else {
			select {
			case <-news:
			case end := <-f.ends:
				f.ended(end)
				if end.err != nil {
					failed = append(failed, end)
				}
			case <-slow.C:
				failed = f.outrun(record.Change)
			case <-fetching.Done():
			}
		}
		for _, end := range failed {
			if fetching.Err() != nil {
				break
			}
			if v, err = r.replace(fetching, v, f, end); err != nil {
				return err
			}
			record = &v.value
		}
		if fetching.Err() != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return r.tooFew(ctx, v, f, fmt.Sprintf("the image was not on all hosts within %v", record.Change.Lasts))
		}
	}
}

// left are the hosts that had the image and went away before the gate.
func (r *Runner) left(ctx context.Context, record *Record) ([]fetchEnd, error) {
	hosts, err := r.hostsByID(ctx, record.Pool)
	if err != nil {
		return nil, err
	}
	var out []fetchEnd
	seen := map[string]bool{}
	for _, m := range record.Change.Moves {
		if h := hosts[m.Server]; !seen[m.Server] && (h == nil || !h.Connected) {
			seen[m.Server] = true
			out = append(out, fetchEnd{m.Server, errors.New("it went away when it had the image")})
		}
	}
	return out, nil
}

// outrun are the hosts that have had half of the time, while spares that were
// asked with them are ready.
func (f *fetch) outrun(c *Change) []fetchEnd {
	ready := 0
	for _, s := range c.Spares {
		if f.states[s].State == PrepullReady {
			ready++
		}
	}
	var out []fetchEnd
	seen := map[string]bool{}
	for _, m := range c.Moves {
		if p := f.states[m.Server]; !seen[m.Server] && p.State == PrepullAsked && len(out) < ready {
			seen[m.Server] = true
			out = append(out, fetchEnd{m.Server, errors.New("a spare was ready in half of the time")})
		}
	}
	return out
}

// targets are the servers that get the image.
func (c *Change) targets() []string {
	var out []string
	seen := map[string]bool{}
	for _, m := range c.Moves {
		if !seen[m.Server] {
			seen[m.Server] = true
			out = append(out, m.Server)
		}
	}
	return append(out, c.Spares...)
}

// ask begins to bring the image to a host.
func (f *fetch) ask(ctx context.Context, server string) {
	p := f.states[server]
	if p.Asked.IsZero() {
		p.Asked = f.r.cfg.Now()
	}
	p.Server, p.Host, p.State, p.Error = server, server, PrepullAsked, ""
	host := f.hosts[server]
	if host != nil {
		p.Host = host.label()
	}
	f.states[server] = p
	f.show(p)
	f.wait.Go(func() {
		err := errors.New("the host is not known any more")
		for again := host != nil; again; {
			err = f.r.cfg.Engine.Prepull(ctx, *host, f.service, func(done, total int64) { f.progress(server, done, total) })
			again = errors.Is(err, ErrUnreachable) && f.r.settles(f.began) && patience(ctx) == nil
		}
		select {
		case f.ends <- fetchEnd{server, err}:
		case <-ctx.Done():
		}
	})
}

// ended notes how a host came out.
func (f *fetch) ended(end fetchEnd) {
	p := f.states[end.server]
	if p.State == PrepullReplaced {
		return
	}
	p.Done, p.Total = f.figures(end.server)
	if end.err == nil {
		p.State, p.Ready, p.Done = PrepullReady, f.r.cfg.Now(), p.Total
	} else {
		p.State, p.Error = PrepullFailed, brief(end.err)
	}
	f.states[end.server] = p
	f.show(p)
}

// maxBrief bounds what is written down of a host's error, in bytes: a thousand
// of them have to fit one commit.
const maxBrief = 200

// brief is an error as it is written down. A host's own words may be of any
// length.
func brief(err error) string {
	text := strings.ToValidUTF8(err.Error(), "?")
	if len(text) > maxBrief {
		text = strings.ToValidUTF8(text[:maxBrief], "") + "…"
	}
	return text
}

// show makes a host's state visible to those who watch.
func (f *fetch) show(p Prepull) {
	f.r.mu.Lock()
	if f.r.fetching[f.name] == nil {
		f.r.fetching[f.name] = map[string]Prepull{}
	}
	f.r.fetching[f.name][p.Server] = p
	f.r.mu.Unlock()
	f.r.tellChanged(f.name)
}

func (f *fetch) progress(server string, done, total int64) {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	if p, ok := f.r.fetching[f.name][server]; ok {
		p.Done, p.Total = done, total
		f.r.fetching[f.name][server] = p
	}
}

func (f *fetch) figures(server string) (done, total int64) {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	p := f.r.fetching[f.name][server]
	return p.Done, p.Total
}

func (f *fetch) leave() {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	delete(f.r.fetching, f.name)
}

// list are all hosts that were asked, by name.
func (f *fetch) list() []Prepull {
	var out []Prepull
	for server, p := range f.states {
		if p.State == PrepullAsked {
			p.Done, p.Total = f.figures(server)
		}
		out = append(out, p)
	}
	sortPrepulls(out)
	return out
}

func sortPrepulls(list []Prepull) {
	slices.SortFunc(list, func(a, b Prepull) int { return strings.Compare(a.Host+"\x00"+a.Server, b.Host+"\x00"+b.Server) })
}

// replace finds other hosts for what was to go to one that failed.
func (r *Runner) replace(ctx context.Context, v versioned[Record], f *fetch, failed fetchEnd) (versioned[Record], error) {
	record := &v.value
	c := record.Change
	if c.Avoid == nil {
		c.Avoid = map[string]string{}
	}
	c.Avoid[failed.server] = brief(failed.err)
	c.Spares = slices.DeleteFunc(c.Spares, func(s string) bool { return s == failed.server })
	var left []Move
	for i := range c.Moves {
		m := &c.Moves[i]
		if m.Server != failed.server {
			continue
		}
		next, err := r.substitute(ctx, record, f)
		if err != nil {
			return v, err
		}
		if next == "" {
			left = append(left, *m)
			continue
		}
		m.Server, m.Host = next, f.label(next)
		p := f.states[failed.server]
		p.State, p.Error = PrepullReplaced, brief(failed.err)
		f.states[failed.server] = p
		f.show(p)
	}
	if len(left) > 0 {
		if c.Kind != kindRepair || len(left) == len(c.Moves) {
			return v, r.tooFew(ctx, v, f, fmt.Sprintf("%s failed and no other host fits", f.label(failed.server)))
		}
		// The others are put up again all the same; these are tried again later.
		c.Moves = slices.DeleteFunc(c.Moves, func(m Move) bool { return slices.Contains(left, m) })
	}
	for len(c.Spares) < min(record.Spares, len(c.Moves)) && len(c.Rest) > 0 && c.Kind != kindUpdate {
		c.Spares, c.Rest = append(c.Spares, c.Rest[0]), c.Rest[1:]
	}
	record.Prepulls = f.list()
	v, err := r.save(ctx, v)
	if err != nil {
		return v, err
	}
	if err := r.sync(ctx, &v.value); err != nil {
		if errors.Is(err, ErrNoRoom) {
			return v, r.yield(ctx, v, err)
		}
		return v, err
	}
	for _, server := range c.targets() {
		if f.states[server].State == "" {
			f.ask(ctx, server)
		}
	}
	return v, nil
}

func (f *fetch) label(server string) string {
	if h := f.hosts[server]; h != nil {
		return h.label()
	}
	return server
}

// substitute takes the best host that is left: a spare that has the image
// already, one that is at it, or any other that fits. "" is none.
func (r *Runner) substitute(ctx context.Context, record *Record, f *fetch) (string, error) {
	c := record.Change
	records, err := r.hostRecords(ctx)
	if err != nil {
		return "", err
	}
	var order []string
	for _, ready := range []bool{true, false} {
		for _, s := range c.Spares {
			if (f.states[s].State == PrepullReady) == ready {
				order = append(order, s)
			}
		}
	}
	for _, server := range append(order, c.Rest...) {
		h := f.hosts[server]
		if h == nil {
			continue
		}
		now := *h
		now.used, now.containers = records[server].value.used(), len(records[server].value.Claims)
		if crowded(f.service.Need, now) == "" {
			same := func(s string) bool { return s == server }
			c.Spares, c.Rest = slices.DeleteFunc(c.Spares, same), slices.DeleteFunc(c.Rest, same)
			return server, nil
		}
	}
	return "", nil
}

// tooFew undoes a change because of its prepulls, and says how each host
// stands.
func (r *Runner) tooFew(ctx context.Context, v versioned[Record], f *fetch, why string) error {
	ready, wanted := 0, map[string]bool{}
	for _, m := range v.value.Change.Moves {
		wanted[m.Server] = true
	}
	for server := range wanted {
		if f.states[server].State == PrepullReady {
			ready++
		}
	}
	var said []string
	for _, p := range f.list() {
		if p.State != PrepullReady {
			said = append(said, fmt.Sprintf("%s: %s", p.Host, describe(p)))
		}
	}
	const most = 20
	if len(said) > most {
		said = append(said[:most], fmt.Sprintf("and %d more", len(said)-most))
	}
	v.value.Prepulls = f.list()
	if err := r.undo(ctx, v, fmt.Errorf("%s; %d of %d hosts have the image (%s)", why, ready, len(wanted), strings.Join(said, "; "))); err != nil {
		return err
	}
	return meta.ErrConflict // look at it anew
}

func describe(p Prepull) string {
	if p.Error != "" {
		return p.Error
	}
	return fmt.Sprintf("%d of %d bytes", p.Done, p.Total)
}

// lift writes down that the gate is open: from here on the containers run.
func (r *Runner) lift(ctx context.Context, v versioned[Record], f *fetch) error {
	record := &v.value
	c := record.Change
	now := r.cfg.Now()
	record.Prepulls = f.list()
	c.Since, c.Step, c.Spares, c.Rest, c.Avoid = now, stepStart, nil, nil, nil
	if c.Kind == kindUpdate {
		c.Step, record.Phase = stepRoll, PhaseUpdating
	} else {
		r.orderAll(record, f.hosts, now)
	}
	_, err := r.save(ctx, v)
	return err
}

// orderAll orders the containers of a change that starts them all at once.
func (r *Runner) orderAll(record *Record, hosts map[string]*Host, now time.Time) {
	for i := range record.Change.Moves {
		m := &record.Change.Moves[i]
		m.State, m.Since = moveSwapped, now
		old, replaces := record.container(m.Old)
		if h := hosts[old.Server]; replaces && h != nil && h.Connected {
			m.State = moveBoth // of a host that is drained: it goes on until the new one is healthy
		}
	}
	if record.Change.Kind != kindRepair {
		record.Phase = PhaseStarting
	}
}
