// Package provisiontest is the conformance suite of provision.Provider, and
// the in-memory twin that the reconciler is tested on.
package provisiontest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoalproject/shoal/supernode/provision"
)

// Subject is a provider under test.
type Subject struct {
	Provider provision.Provider
	// Spec says what to make for the n-th key, counted from 0, under a tag.
	Spec func(n int, tag string) provision.Spec
	// Many is how many machines it can have at once; at least 3.
	Many int
	// Settle is how long a machine may take to run, to show or to be gone.
	Settle time.Duration
}

// Run is the suite. Each part gets a Subject of its own, which is empty.
func Run(t *testing.T, subject func(t *testing.T) Subject) {
	for name, part := range map[string]func(*testing.T, Subject){
		"what is made is shown":                shown,
		"a key is one machine":                 oneForKey,
		"a key is one machine for all at once": oneForAll,
		"tags keep fleets apart":               tags,
		"all of many are listed":               many,
		"what is deleted goes":                 deleted,
		"what is not there":                    absent,
		"keys that nobody can carry":           badKeys,
		"a call ends with its context":         cancelled,
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) { part(t, subject(t)) })
	}
}

const tag = "shoal-conformance"

func (s Subject) create(t *testing.T, key string, n int) provision.Machine {
	t.Helper()
	m, err := s.Provider.Create(t.Context(), key, s.Spec(n, tag))
	if err != nil {
		t.Fatalf("Create(%s): %v", key, err)
	}
	if m.Key != key || m.ID == "" || m.State == 0 || m.State == provision.Partial {
		t.Fatalf("Create(%s) = %+v", key, m)
	}
	return m
}

// listed waits until the list is what good says.
func (s Subject) listed(t *testing.T, tag string, good func([]provision.Machine) bool) []provision.Machine {
	t.Helper()
	deadline := time.NewTimer(s.Settle)
	defer deadline.Stop()
	for {
		list, err := s.Provider.List(t.Context(), tag)
		if err != nil {
			t.Fatalf("List(%s): %v", tag, err)
		}
		if good(list) {
			return list
		}
		again := time.NewTimer(s.Settle / 50)
		select {
		case <-again.C:
		case <-deadline.C:
			t.Fatalf("List(%s) = %+v", tag, list)
		}
	}
}

// keys are those of what is not ending, in order.
func keys(list []provision.Machine) []string {
	var out []string
	for _, m := range list {
		if m.State != provision.Ending {
			out = append(out, m.Key)
		}
	}
	slices.Sort(out)
	return out
}

func lists(want ...string) func([]provision.Machine) bool {
	return func(list []provision.Machine) bool { return slices.Equal(keys(list), want) }
}

func shown(t *testing.T, s Subject) {
	made := s.create(t, "key-a", 0)
	got, err := s.Provider.Get(t.Context(), made.ID)
	if err != nil || got.ID != made.ID || got.Key != "key-a" || got.Created.IsZero() {
		t.Errorf("Get = %+v, %v; Create was %+v", got, err, made)
	}
	list := s.listed(t, tag, func(list []provision.Machine) bool {
		return len(list) == 1 && list[0].State == provision.Running
	})
	if list[0].ID != made.ID || list[0].Key != "key-a" {
		t.Errorf("List = %+v; Create was %+v", list, made)
	}
}

func oneForKey(t *testing.T, s Subject) {
	first := s.create(t, "key-a", 0)
	for range 3 {
		if again := s.create(t, "key-a", 0); again.ID != first.ID {
			t.Errorf("the second Create made %s, the first %s", again.ID, first.ID)
		}
	}
	s.listed(t, tag, lists("key-a"))
}

func oneForAll(t *testing.T, s Subject) {
	ids := make([]string, 6)
	var wait sync.WaitGroup
	for i := range ids {
		wait.Go(func() {
			m, err := s.Provider.Create(t.Context(), "key-a", s.Spec(0, tag))
			if err != nil {
				t.Errorf("Create: %v", err)
			}
			ids[i] = m.ID
		})
	}
	wait.Wait()
	if len(slices.Compact(ids)) != 1 {
		t.Errorf("one key made %q", ids)
	}
	s.listed(t, tag, lists("key-a"))
}

func tags(t *testing.T, s Subject) {
	s.create(t, "key-a", 0)
	other, err := s.Provider.Create(t.Context(), "key-b", s.Spec(1, tag+"-other"))
	if err != nil {
		t.Fatal(err)
	}
	s.listed(t, tag, lists("key-a"))
	s.listed(t, tag+"-other", lists("key-b"))
	// A tag is the whole of it, not its beginning.
	s.listed(t, tag[:len(tag)-1], lists())
	if err := s.Provider.Delete(t.Context(), other.ID); err != nil {
		t.Error(err)
	}
}

func many(t *testing.T, s Subject) {
	var want []string
	for n := range s.Many {
		key := fmt.Sprintf("key-%05d", n)
		want = append(want, key)
		s.create(t, key, n)
	}
	s.listed(t, tag, lists(want...))
}

func deleted(t *testing.T, s Subject) {
	m, stays := s.create(t, "key-a", 0), s.create(t, "key-b", 1)
	for range 3 { // once would do
		if err := s.Provider.Delete(t.Context(), m.ID); err != nil {
			t.Fatalf("Delete: %v", err)
		}
	}
	s.listed(t, tag, func(list []provision.Machine) bool { return len(list) == 1 && list[0].ID == stays.ID })
	if got, err := s.Provider.Get(t.Context(), m.ID); !errors.Is(err, provision.ErrNoMachine) {
		t.Errorf("Get of what is gone = %+v, %v", got, err)
	}
	if err := s.Provider.Delete(t.Context(), m.ID); err != nil {
		t.Errorf("Delete of what is gone: %v", err)
	}
}

func absent(t *testing.T, s Subject) {
	s.listed(t, tag, lists())
	for _, id := range []string{"no-such-machine", "../../etc/passwd", ""} {
		if got, err := s.Provider.Get(t.Context(), id); !errors.Is(err, provision.ErrNoMachine) {
			t.Errorf("Get(%q) = %+v, %v", id, got, err)
		}
	}
	if err := s.Provider.Delete(t.Context(), "no-such-machine"); err != nil {
		t.Errorf("Delete: %v", err)
	}
}

func badKeys(t *testing.T, s Subject) {
	for _, key := range []string{"", "A", "a b", "a/b", "a;reboot", "-a", "a-", strings.Repeat("a", provision.MaxKey+1), "ä", "a\n"} {
		if m, err := s.Provider.Create(t.Context(), key, s.Spec(0, tag)); !errors.Is(err, provision.ErrRefused) {
			t.Errorf("Create(%q) = %+v, %v", key, m, err)
		}
	}
	if m, err := s.Provider.Create(t.Context(), "key-a", s.Spec(0, "Bad Tag")); !errors.Is(err, provision.ErrRefused) {
		t.Errorf("Create with a bad tag = %+v, %v", m, err)
	}
	s.create(t, strings.Repeat("k", provision.MaxKey), 0)
}

func cancelled(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if m, err := s.Provider.Create(ctx, "key-a", s.Spec(0, tag)); err == nil {
		t.Errorf("Create = %+v", m)
	}
	if _, err := s.Provider.List(ctx, tag); err == nil {
		t.Error("List did not end")
	}
	s.create(t, "key-a", 0) // whatever the first one came to
	s.listed(t, tag, lists("key-a"))
}
