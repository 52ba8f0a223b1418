package fleet

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestSet holds a set against a map, across the border between its two forms and
// back.
func TestSet(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	var s set
	want := map[uint32]bool{}
	forms := map[bool]bool{}
	for i := range 20_000 {
		slot := random.Uint32N(40)
		if grow := i/500%2 == 0; grow == (random.IntN(10) > 0) {
			s.add(slot)
			want[slot] = true
		} else {
			s.remove(slot)
			delete(want, slot)
		}
		forms[s.many != nil] = true
		if s.many != nil && s.few != nil || s.many == nil && len(s.few) > fewMax {
			t.Fatalf("the set has two forms, or the wrong one")
		}
		got, members := s.slots(), slices.Sorted(maps.Keys(want))
		if !cmp.Equal(members, got, cmpopts.EquateEmpty()) || s.len() != len(want) || !cmp.Equal(members, s.bitmap().ToArray(), cmpopts.EquateEmpty()) {
			t.Fatalf("got %v, want %v", got, members)
		}
	}
	if len(forms) != 2 || s.len() > fewMax {
		t.Errorf("forms seen: %v; %d members at the end", forms, s.len())
	}
}

// TestIndexIsSelective: selectors that were filed before there was any device
// find their way to the rare terms, so that a device is held against few.
func TestIndexIsSelective(t *testing.T) {
	w := newWorld()
	for i := range 1000 {
		d := testDeployment(i)
		d.Selector.MatchExpressions = nil
		d.Selector.MatchLabels = map[string]string{"env": "prod", "site": d.ID.Name}
		w.setDeployment(d)
	}
	for i := range 1000 {
		w.setDevice(testDevice(i), map[string]string{"env": "prod", "site": testDeployment(i).ID.Name})
	}
	before := w.f.Stats().Evaluations
	for i := range 1000 {
		w.setDevice(testDevice(i), map[string]string{"env": "test", "site": testDeployment(i).ID.Name})
		w.setDevice(testDevice(i), map[string]string{"env": "prod", "site": testDeployment(i).ID.Name})
	}
	if each := (w.f.Stats().Evaluations - before) / 2000; each > 2 {
		t.Errorf("%d selectors are evaluated for a device that matches one", each)
	}
	w.checkCounters(t)
}
