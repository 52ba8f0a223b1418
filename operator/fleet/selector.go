package fleet

import (
	"cmp"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// selector is a compiled label selector: all of its terms must hold. One without
// terms matches nothing.
type selector struct {
	owner *deployment // nil for a selector that only asks once
	// terms, positive ones first and then rarest first, as they were when they
	// were put in order: the index files the selector under the first, and most
	// devices fail at the second.
	terms []term
	size  int // of the first term then
}

// term is one requirement on one key.
type term struct {
	key *labelKey
	// pairs are those with the values that the term names; empty for Exists and
	// DoesNotExist.
	pairs []*labelPair
	// positive is true for In and Exists, false for NotIn and DoesNotExist.
	positive bool
}

// requirements reads a selector as Kubernetes does, except that an empty one has
// no requirements and is to match nothing.
func requirements(s metav1.LabelSelector) (labels.Requirements, error) {
	if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		return nil, nil
	}
	parsed, err := metav1.LabelSelectorAsSelector(&s)
	if err != nil {
		return nil, fmt.Errorf("reading selector: %w", err)
	}
	found, _ := parsed.Requirements()
	return found, nil
}

// holds reports whether labels, at most one pair for each key, satisfy the term.
// NotIn and DoesNotExist hold where the key is absent, as in Kubernetes.
func (t *term) holds(labels []*labelPair) bool {
	for _, pair := range labels {
		// Interned pairs are told apart without looking into them.
		if len(t.pairs) == 0 && pair.key == t.key || slices.Contains(t.pairs, pair) {
			return t.positive
		}
	}
	return !t.positive
}

// size is how many devices have what the term names.
func (t *term) size() int {
	if len(t.pairs) == 0 {
		return t.key.devices.len()
	}
	size := 0
	for _, pair := range t.pairs {
		size += pair.devices.len()
	}
	return size
}

// matches reports whether labels satisfy the terms that follow the first held.
func (s *selector) matches(labels []*labelPair, held int) bool {
	for i := range s.terms[held:] {
		if !s.terms[held+i].holds(labels) {
			return false
		}
	}
	return true
}

// order puts the terms in order. A filed selector must not be ordered anew.
func (s *selector) order() {
	slices.SortStableFunc(s.terms, func(a, b term) int {
		if a.positive != b.positive {
			if a.positive {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.size(), b.size())
	})
	if len(s.terms) > 0 {
		s.size = s.terms[0].size()
	}
}

// misfiled reports whether the term that the selector is filed under has become
// so common that another may be better: it is looked at only when the selector
// was a candidate, so a selector that is never in the way costs nothing.
func (s *selector) misfiled() bool {
	return s.terms[0].positive && s.terms[0].size() > 2*s.size+8
}

// negated reports whether a requirement excludes devices.
func negated(op selection.Operator) bool {
	return op == selection.NotIn || op == selection.DoesNotExist
}
