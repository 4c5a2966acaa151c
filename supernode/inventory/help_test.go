package inventory

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/meta"
)

// book is an inventory with a clock of its own and people whose ID is their
// name with an i before it.
type book struct {
	*Inventory
	t     *testing.T
	store *faulty

	mu      sync.Mutex
	now     time.Time           // guarded by mu
	changes map[string][]Server // by ID, as told; guarded by mu
	ids     map[string]string   // of users that are another one than usual
}

var (
	sysAdmin = Caller{Name: "admin", ID: "i-admin", Admin: true}
)

func user(name string) Caller { return Caller{Name: name, ID: "i-" + name} }

// faulty is a store that dies after so many commits, before or after the
// commit has its effect.
type faulty struct {
	meta.Store
	mu    sync.Mutex
	left  int  // commits until it dies; below 0: it lives
	after bool // the last one has its effect
}

var errDead = errors.New("the supernode was killed")

func (f *faulty) Commit(ctx context.Context, compares []meta.Compare, ops []meta.Op) (meta.Revision, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left == 0 {
		return 0, errDead
	}
	if f.left > 0 {
		if f.left--; f.left == 0 {
			if f.after {
				if _, err := f.Store.Commit(ctx, compares, ops); err != nil {
					return 0, err
				}
			}
			return 0, errDead
		}
	}
	return f.Store.Commit(ctx, compares, ops)
}

func newBook(t *testing.T) *book {
	t.Helper()
	return reopen(t, &faulty{Store: meta.NewMemory(), left: -1})
}

// reopen is a supernode that starts with what is in the store.
func reopen(t *testing.T, store *faulty) *book {
	t.Helper()
	b := &book{t: t, store: store, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), changes: map[string][]Server{}, ids: map[string]string{}}
	var err error
	b.Inventory, err = New(Config{
		Meta: store, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { b.mu.Lock(); defer b.mu.Unlock(); return b.now },
		UserID: func(_ context.Context, name string) (string, error) {
			if id, ok := b.ids[name]; ok {
				return id, nil
			}
			return "i-" + name, nil
		},
		ProviderFor: func(string) (string, error) { return "memory", nil },
		OnChange: func(_ context.Context, before, after Server) {
			b.mu.Lock()
			defer b.mu.Unlock()
			told := b.changes[after.ID]
			if last := len(told) - 1; last >= 0 && (before.ID != "" && before.Phase != told[last].Phase || before.ID == "" && told[last].Phase != Retired) {
				t.Errorf("told of a change of %s from %s, after one to %s", after.Name, before.Phase, told[last].Phase)
			}
			b.changes[after.ID] = append(told, after)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *book) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *book) later(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

// pool makes one in a cluster of its own.
func (b *book) pool(p Pool) {
	b.t.Helper()
	ctx := b.t.Context()
	if _, err := b.AddCluster(ctx, sysAdmin, "c", KindMetal, ""); err != nil && !errors.Is(err, ErrExists) {
		b.t.Fatal(err)
	}
	p.Cluster = "c"
	_, err := b.CreatePool(ctx, sysAdmin, p)
	b.must(err)
}

// is checks the phase of a server.
func (b *book) is(id string, want Phase) Server {
	b.t.Helper()
	s, err := b.Server(b.t.Context(), id)
	b.must(err)
	if s.Phase != want {
		b.t.Errorf("server %s is %s (at %q: %s), want %s\n%v", s.Name, s.Phase, s.FailedAt, s.Reason, want, s.Log)
	}
	return s
}

func someFacts() *shoalv1.Facts {
	return &shoalv1.Facts{Hostname: "h", Arch: "amd64", CpuMilli: 32_000, MemoryBytes: 32 << 30, Engine: "containerd"}
}

func steps(profile string, states ...shoalv1.StepStatus_State) *shoalv1.ReportStepsRequest {
	r := &shoalv1.ReportStepsRequest{Profile: profile, Done: true}
	for n, s := range states {
		step := &shoalv1.StepStatus{Name: []string{"runtime", "mirror", "time"}[n], State: s}
		if s == shoalv1.StepStatus_FAILED {
			step.Error = "it broke"
		}
		r.Steps = append(r.Steps, step)
	}
	return r
}
