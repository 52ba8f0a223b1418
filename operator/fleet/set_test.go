package fleet

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSet holds a set against a map, across the border between its two forms and
// back.
func TestSet(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	var s set
	want := map[uint32]bool{}
	forms := map[bool]bool{}
	for i := range 4_000 {
		slot := random.Uint32N(40)
		if grow := i/200%2 == 0; grow == (random.IntN(10) > 0) {
			s.add(slot)
			want[slot] = true
		} else {
			s.remove(slot)
			delete(want, slot)
		}
		forms[s.many != nil] = true
		if s.many != nil && s.few != nil || s.many == nil && len(s.few) > fewMax || s.many != nil && s.len() <= fewMax/2 {
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
	const n = 200
	w := newWorld()
	for i := range n {
		d := testDeployment(i)
		// More sites than maxSeconds, so that it matters which term is first.
		d.Selector = metav1.LabelSelector{MatchLabels: map[string]string{"env": "prod"}, MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "site", Operator: metav1.LabelSelectorOpIn, Values: []string{d.ID.Name, "v", "w", "x", "y", "z"}},
		}}
		w.setDeployment(d)
	}
	relabel := func(i int, env string) {
		w.setDevice(testDevice(i), map[string]string{"env": env, "site": testDeployment(i).ID.Name})
	}
	for i := range n {
		relabel(i, "prod")
	}
	before := w.f.Stats().Evaluations
	for i := range n {
		relabel(i, "test")
		relabel(i, "prod")
	}
	if each := (w.f.Stats().Evaluations - before) / (2 * n); each > 2 {
		t.Errorf("%d selectors are evaluated for a device that matches one", each)
	}
	w.checkCounters(t)
}
