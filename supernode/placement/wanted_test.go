package placement

import "testing"

// anUpdate is a record in the middle of an update of one container in place.
func anUpdate(state State) *Record {
	return &Record{
		Name: "app", Pool: "web",
		Revisions: []Revision{
			{Number: 1, Service: Service{Need: Need{CPU: 1000, Memory: gib, Ports: []int32{80}}}},
			{Number: 2, Service: Service{Need: Need{CPU: 500, Memory: 2 * gib, Ports: []int32{80}}}},
		},
		Containers: []Placed{{ID: "old", Server: "id-a", Revision: 1}},
		Change: &Change{Kind: kindUpdate, Step: stepRoll, Revision: 2, Before: 1, Moves: []Move{
			{ID: "new", Server: "id-a", Old: "old", State: state, Back: "back"},
		}},
	}
}

// What is held never shrinks below what going back takes, and only one of two
// that take each other's place is open.
func TestWantedOfAnUpdateInPlace(t *testing.T) {
	for _, c := range []struct {
		state State
		open  string // which one is
		held  string // by whom
	}{
		{moveClaimed, "old", "old"}, {moveStopping, "", "new"}, {moveSwapped, "new", "new"}, {moveDone, "new", "new"},
		{moveReturning, "", "back"}, {moveBack, "back", "back"},
	} {
		list := wanted(anUpdate(c.state))
		if len(list) != 1 || list[0].ID != c.held || list[0].Need.CPU != 1000 || list[0].Need.Memory != 2*gib {
			t.Errorf("%q: %+v, want that %s holds enough for both", c.state, list, c.held)
			continue
		}
		if list[0].Open != (c.open != "") {
			t.Errorf("%q: open is %v", c.state, list[0].Open)
		}
	}
}

func TestOneInAnothersPlaceOpensWhenThatIsGone(t *testing.T) {
	host := aHost("a")
	need := Need{CPU: 3000, Ports: []int32{80}}
	old := Claim{ID: "old", Placement: "app", Need: need, Open: true, Told: true}
	next := Claim{ID: "new", Placement: "app", Need: need, Open: true, Run: true, Replaces: "old"}
	record, changed, _, err := adjust(HostRecord{Server: "id-a", Generation: 1, Claims: []Claim{old}}, "app", []Claim{next}, &host)
	if err != nil || !changed {
		t.Fatal(changed, err)
	}
	if c := record.Claims[0]; c.ID != "new" || c.Open || c.Need.CPU != 3000 {
		t.Errorf("beside one that may still run: %+v", c)
	}
	if c := record.Claims[1]; c.Open || c.Gone != 2 || c.Need.CPU != 0 || record.Generation != 2 {
		t.Errorf("what is to go: %+v in generation %d", c, record.Generation)
	}
	next.Replaces = "" // as it is once the update is over
	if again, _, _, err := adjust(record, "app", []Claim{next}, &host); err != nil || again.Claims[0].Open {
		t.Errorf("it is open: %+v, %v", again.Claims[0], err)
	}
	record.Claims = record.Claims[:1] // the host said that it is gone
	if again, _, _, err := adjust(record, "app", []Claim{next}, &host); err != nil || !again.Claims[0].Open || again.Generation != 3 {
		t.Errorf("it is not open: %+v, %v", again, err)
	}
}

func TestAdjustRefusesWhatDoesNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		had, want Need
		host      *Host
	}{
		"more CPU than there is":    {Need{CPU: 3000}, Need{CPU: 1001}, new(aHost("a"))},
		"more memory than there is": {Need{Memory: 7 * gib}, Need{Memory: 2 * gib}, new(aHost("a"))},
		"a port that is taken":      {Need{Ports: []int32{80}}, Need{Ports: []int32{80}}, new(aHost("a"))},
		"a host that is not known":  {Need{}, Need{}, nil},
	} {
		record := HostRecord{Server: "id-a", Claims: []Claim{{ID: "other", Placement: "other", Need: c.had, Open: true, Told: true}}}
		if _, changed, _, err := adjust(record, "app", []Claim{{ID: "new", Placement: "app", Need: c.want}}, c.host); err == nil || changed {
			t.Errorf("%s: taken", name)
		}
		// Less than before is always taken.
		if out, _, _, err := adjust(record, "other", nil, c.host); err != nil || out.Claims[0].Gone == 0 {
			t.Errorf("%s: what is to go: %+v, %v", name, out, err)
		}
	}
}
