package fleet

import (
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
	terms []term
	// filed is the place in terms of the one that the index files the selector
	// under, none for the list that every device is held against; filedSize is
	// how many devices that term had then.
	filed, filedSize int
}

// none is selector.filed of a selector without a positive term.
const none = -1

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
		if pair.key == t.key {
			named := len(t.pairs) == 0 || slices.Contains(t.pairs, pair)
			return named == t.positive
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

func (s *selector) matches(labels []*labelPair) bool {
	for i := range s.terms {
		if !s.terms[i].holds(labels) {
			return false
		}
	}
	return len(s.terms) > 0
}

// mentions reports whether the selector has a term on one of keys.
func (s *selector) mentions(keys []*labelKey) bool {
	for i := range s.terms {
		if slices.Contains(keys, s.terms[i].key) {
			return true
		}
	}
	return false
}

// rarest is the place of the positive term with the fewest devices, and their
// number.
func (s *selector) rarest() (at, size int) {
	at = none
	for i := range s.terms {
		if t := &s.terms[i]; t.positive {
			if n := t.size(); at == none || n < size {
				at, size = i, n
			}
		}
	}
	return at, size
}

// misfiled reports whether the term that the selector is filed under has become
// so common that another may be better: it is looked at only when the selector
// was a candidate, so a selector that is never in the way costs nothing.
func (s *selector) misfiled() bool {
	return s.filed != none && s.terms[s.filed].size() > 2*s.filedSize+8
}

// negated reports whether a requirement excludes devices.
func negated(op selection.Operator) bool {
	return op == selection.NotIn || op == selection.DoesNotExist
}
