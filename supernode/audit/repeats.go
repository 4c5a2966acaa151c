package audit

import "time"

const (
	// maxStrangers and maxKinds bound the kinds of events that are told apart at
	// once; of those beyond, only action and outcome are.
	maxStrangers = 256
	maxKinds     = 4096
)

// many stands for subjects that are not told apart.
const many = "(many)"

// kind is what events have in common that are counted together.
type kind struct {
	subject, action, object, project, from, reason string
	allowed                                        bool
	// by is who saw it, where that is not the supernode: what an agent decided
	// on its own and what the supernode did are two things.
	by string
}

// byDetail is the detail that says by whom.
const byDetail = "by"

// kindOf tells what strangers do apart by action and address alone: what they
// name is theirs to vary.
func kindOf(e Event) kind {
	if e.Subject == Unknown {
		return kind{subject: Unknown, action: e.Action, from: e.From, allowed: e.Allowed}
	}
	return kind{e.Subject, e.Action, e.Object, e.Project, e.From, e.Reason, e.Allowed, e.Detail[byDetail]}
}

func (k kind) event() Event {
	e := Event{
		Subject: k.subject, Action: k.action, Object: k.object, Project: k.project, From: k.from, Reason: k.reason, Allowed: k.allowed,
	}
	if k.by != "" {
		e.Detail = map[string]string{byDetail: k.by}
	}
	return e
}

// repeats counts events of one kind within a window that begins with the
// first. It has no clock of its own; the Log guards it.
type repeats struct {
	window    time.Duration
	kinds     map[kind]*repeat
	order     []*repeat // by their end
	strangers int
}

type repeat struct {
	kind  kind
	until time.Time
	more  uint64
}

func newRepeats(window time.Duration) *repeats {
	return &repeats{window: window, kinds: map[kind]*repeat{}}
}

// take counts an event. It returns the event to write when it is the first of
// its kind, as far as kinds are told apart.
func (r *repeats) take(now time.Time, e Event) (first *Event) {
	k, times := kindOf(e), max(e.Times, 1)
	stranger := k.subject == Unknown
	if _, known := r.kinds[k]; !known && (len(r.kinds) >= maxKinds || stranger && r.strangers >= maxStrangers) {
		k = kind{subject: many, action: e.Action, allowed: e.Allowed}
		e, stranger = k.event(), false
	}
	if known := r.kinds[k]; known != nil {
		known.more += times
		return nil
	}
	one := &repeat{kind: k, until: now.Add(r.window), more: times - 1}
	r.kinds[k], r.order = one, append(r.order, one)
	if stranger {
		r.strangers++
	}
	return &e
}

// due ends the windows that are over at now, all of them when now is zero, and
// returns those that counted.
func (r *repeats) due(now time.Time) []repeat {
	var out []repeat
	for len(r.order) > 0 && (now.IsZero() || !now.Before(r.order[0].until)) {
		one := r.order[0]
		r.order = r.order[1:]
		delete(r.kinds, one.kind)
		if one.kind.subject == Unknown {
			r.strangers--
		}
		if one.more > 0 {
			out = append(out, *one)
		}
	}
	return out
}
