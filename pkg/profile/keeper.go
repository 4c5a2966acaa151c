package profile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/shoalproject/shoal/pkg/durable"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

const (
	// lookEvery is how often a host looks whether its steps still hold, a
	// quarter more or less; firstLook is until when it does so after a start.
	lookEvery = 10 * time.Minute
	firstLook = time.Minute
	// toldAgain is after how long a look that found nothing new is told all
	// the same.
	toldAgain = time.Hour
	// sendAgain and sendPause are the shortest and the longest pause before a
	// report is sent again that nobody took.
	sendAgain = time.Second
	sendPause = 30 * time.Second
	// maxReports bounds the reports that wait to be sent.
	maxReports = 16
)

const (
	profileFile = "profile.pb"
	memoryFile  = "steps.json"
)

// KeeperConfig is what a Keeper is made of.
type KeeperConfig struct {
	Host *Host
	// Folder is where the profile is kept, and which steps were applied.
	Folder string
	// May says whether steps may change this host; else they are looked at.
	May bool
	// Send tells the supernode. Drop reports whether an error of it means that
	// this report will never be taken.
	Send func(context.Context, *shoalv1.ReportStepsRequest) error
	Drop func(error) bool
	Now  func() time.Time
	Log  *slog.Logger
}

// Keeper carries out what the supernode orders about the host's profile, one
// run at a time, and looks in between whether it still holds. What it finds is
// told until somebody has taken it.
type Keeper struct {
	cfg    KeeperConfig
	memory *FileMemory   // the run's that goes on
	news   chan struct{} // holds a word when there is something to send

	mu      sync.Mutex
	profile *shoalv1.Profile              // what is looked after, nil for none; guarded by mu
	running *job                          // nil while none; guarded by mu
	reports []*shoalv1.ReportStepsRequest // to be sent, in order; guarded by mu
	told    string                        // the gist of the last whole report; guarded by mu
	open    []string                      // the steps that did not hold in it; guarded by mu
	toldAt  time.Time                     // guarded by mu
}

// job is a run that goes on.
type job struct {
	order  string // "" for a look of the host's own
	dryRun bool
	cancel context.CancelCauseFunc
	done   chan struct{}
}

var (
	errCancelled = errors.New("it was cancelled")
	errOrdered   = errors.New("an order of the supernode goes first")
)

// OpenKeeper takes up what was kept in the folder.
func OpenKeeper(c KeeperConfig) (*Keeper, error) {
	k := &Keeper{cfg: c, news: make(chan struct{}, 1)}
	var err error
	if k.memory, err = OpenMemory(filepath.Join(c.Folder, memoryFile)); err != nil {
		return nil, err
	}
	path := filepath.Join(c.Folder, profileFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	p := &shoalv1.Profile{}
	if err == nil {
		err = proto.Unmarshal(raw, p)
	}
	if err != nil {
		return nil, fmt.Errorf("read the profile of this host: %w; remove %s, the supernode sends it again", err, path)
	}
	k.profile = p
	return k, nil
}

// Run sends reports and looks for drift until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	var wait sync.WaitGroup
	wait.Go(func() { k.deliver(ctx) })
	pause := rand.N(firstLook)
	for {
		select {
		case <-time.After(pause):
			k.look(ctx)
			pause = lookEvery*3/4 + rand.N(lookEvery/2)
		case <-ctx.Done():
			wait.Wait()
			return
		}
	}
}

// Carry does what an order says and returns when it is done. What comes out
// of it is reported.
func (k *Keeper) Carry(ctx context.Context, orderID string, a *shoalv1.ApplyProfile) {
	report := &shoalv1.ReportStepsRequest{OrderId: orderID, Profile: a.GetProfile().GetName(), DryRun: a.DryRun}
	refuse := func(why string, busy bool) {
		k.cfg.Log.Warn("the pool's profile was not taken", "profile", report.Profile, "reason", why)
		report.Done, report.Error, report.Busy = true, clip(why, maxError), busy
		k.tell(report)
	}
	if !a.DryRun && !k.cfg.May {
		refuse("this agent may not change its host: start it as root, or with --apply-profiles", false)
		return
	}
	steps, err := Plan(a.Profile, k.cfg.Host)
	if err != nil {
		refuse(err.Error(), false)
		return
	}
	ctx, j := k.begin(ctx, orderID, a.DryRun)
	if j == nil {
		refuse("another run of a profile goes on there", true)
		return
	}
	defer k.end(j)
	if err := k.follow(a.Profile); err != nil {
		refuse(err.Error(), false)
		return
	}
	statuses, err := Run(ctx, steps, Options{
		DryRun: a.DryRun, Memory: k.memory, Now: k.cfg.Now,
		Report: func(now []*shoalv1.StepStatus) {
			part := proto.CloneOf(report)
			part.Steps = slices.Clone(now)
			k.tell(part)
		},
	})
	if err != nil {
		k.cfg.Log.Info("a run of the pool's profile was ended", "profile", report.Profile, "reason", err)
		return
	}
	report.Steps, report.Done = statuses, true
	k.tell(report)
	k.cfg.Log.Info("the pool's profile was carried out", "profile", report.Profile, "dry-run", a.DryRun, "steps", gist(statuses))
}

// Cancel ends the run of an order if it only looks. One that changes the host
// goes on: a half of it would be worse.
func (k *Keeper) Cancel(orderID string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.running != nil && k.running.order == orderID && k.running.dryRun {
		k.running.cancel(errCancelled)
	}
}

// Open are the steps of the host's profile that did not hold when they were
// looked at last.
func (k *Keeper) Open() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.open)
}

// begin makes room for a run: nil while another order's goes on. A look of the
// host's own gives way.
func (k *Keeper) begin(ctx context.Context, orderID string, dryRun bool) (context.Context, *job) {
	ctx, cancel := context.WithCancelCause(ctx)
	j := &job{orderID, dryRun, cancel, make(chan struct{})}
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.running != nil {
		other := k.running
		if other.order != "" || orderID == "" {
			cancel(nil)
			return nil, nil
		}
		other.cancel(errOrdered)
		k.mu.Unlock()
		<-other.done
		k.mu.Lock()
	}
	k.running = j
	return ctx, j
}

func (k *Keeper) end(j *job) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.running = nil
	j.cancel(nil)
	close(j.done)
}

// follow keeps the profile that is looked after from now on.
func (k *Keeper) follow(p *shoalv1.Profile) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if proto.Equal(p, k.profile) {
		return nil
	}
	path := filepath.Join(k.cfg.Folder, profileFile)
	if p.GetName() == "" {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget the profile of this host: %w", err)
		}
		k.profile = nil
		return nil
	}
	raw, err := proto.Marshal(p)
	if err == nil {
		err = durable.WriteFile(path, raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep the profile of this host: %w", err)
	}
	k.profile = proto.CloneOf(p)
	return nil
}

// look looks at every step and tells what it found where that is news.
func (k *Keeper) look(ctx context.Context) {
	k.mu.Lock()
	p := k.profile
	k.mu.Unlock()
	if p == nil {
		return
	}
	steps, err := Plan(p, k.cfg.Host)
	if err != nil {
		k.cfg.Log.Error("the profile of this host cannot be looked after", "profile", p.Name, "error", err)
		return
	}
	ctx, j := k.begin(ctx, "", true)
	if j == nil {
		return // a run goes on, which looks at them as well
	}
	defer k.end(j)
	statuses, err := Run(ctx, steps, Options{DryRun: true, Memory: k.memory, Now: k.cfg.Now})
	if err != nil || !k.isNews(statuses) {
		return
	}
	k.tell(&shoalv1.ReportStepsRequest{Profile: p.Name, Steps: statuses, Done: true, DryRun: true})
}

// isNews reports whether statuses are to be told.
func (k *Keeper) isNews(statuses []*shoalv1.StepStatus) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return gist(statuses) != k.told || k.cfg.Now().Sub(k.toldAt) >= toldAgain
}

// gist is what matters of statuses: outputs differ each time.
func gist(statuses []*shoalv1.StepStatus) string {
	out := ""
	for _, s := range statuses {
		out += fmt.Sprintf("%s/%d %v %s;", s.Name, s.Version, s.State, s.Error)
	}
	return out
}

// tell queues a report. It takes the place of an older one of the same order.
func (k *Keeper) tell(r *shoalv1.ReportStepsRequest) {
	k.mu.Lock()
	if r.Done && r.Error == "" {
		k.told, k.toldAt, k.open = gist(r.Steps), k.cfg.Now(), nil
		for _, s := range r.Steps {
			if s.State != shoalv1.StepStatus_OK && s.State != shoalv1.StepStatus_CHANGED {
				k.open = append(k.open, s.Name)
			}
		}
	}
	i := slices.IndexFunc(k.reports, func(q *shoalv1.ReportStepsRequest) bool { return q.OrderId == r.OrderId })
	if i >= 0 {
		k.reports[i] = r
	} else {
		k.reports = append(k.reports[max(0, len(k.reports)-maxReports+1):], r)
	}
	k.mu.Unlock()
	select {
	case k.news <- struct{}{}:
	default:
	}
}

// deliver sends what is queued, again and again until it is taken.
func (k *Keeper) deliver(ctx context.Context) {
	pause := sendAgain
	for ctx.Err() == nil {
		k.mu.Lock()
		var r *shoalv1.ReportStepsRequest
		if len(k.reports) > 0 {
			r = k.reports[0]
		}
		k.mu.Unlock()
		if r == nil {
			select {
			case <-k.news:
			case <-ctx.Done():
			}
			continue
		}
		err := k.cfg.Send(ctx, r)
		if err != nil && !k.cfg.Drop(err) {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause = min(2*pause, sendPause)
			continue
		}
		if err != nil {
			k.cfg.Log.Error("the supernode does not take how this host stands to its profile", "profile", r.Profile, "error", err)
		}
		pause = sendAgain
		k.taken(r)
	}
}

// taken forgets a report, unless a newer one took its place.
func (k *Keeper) taken(r *shoalv1.ReportStepsRequest) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if i := slices.Index(k.reports, r); i >= 0 {
		k.reports = slices.Delete(k.reports, i, i+1)
	}
}
