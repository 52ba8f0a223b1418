package fleet

import (
	"cmp"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// index finds the devices of a selector, from the devices of each label pair,
// and the selectors that a device may match, from the selectors filed under each
// of its pairs.
type index struct {
	all  set // every device with a resource
	keys map[string]*labelKey
	// always holds the selectors without a positive term.
	always map[*selector]struct{}
}

// labelKey is an interned label key. It lives while a pair or a term uses it.
type labelKey struct {
	name    string
	devices set // that have the key
	pairs   map[string]*labelPair
	filed   map[*selector]struct{} // under Exists
	users   int                    // terms on the key
}

// labelPair is an interned label. It lives while a device or a term uses it.
type labelPair struct {
	key     *labelKey
	value   string
	devices set
	filed   map[*selector]struct{} // under In
	users   int                    // terms that name the pair
}

func newIndex() index {
	return index{keys: map[string]*labelKey{}, always: map[*selector]struct{}{}}
}

func (x *index) key(name string) *labelKey {
	key := x.keys[name]
	if key == nil {
		// A clone, here and below: the caller's string may be a part of a
		// much larger one.
		key = &labelKey{name: strings.Clone(name), pairs: map[string]*labelPair{}}
		x.keys[key.name] = key
	}
	return key
}

func (x *index) pair(name, value string) *labelPair {
	key := x.key(name)
	pair := key.pairs[value]
	if pair == nil {
		pair = &labelPair{key: key, value: strings.Clone(value)}
		key.pairs[pair.value] = pair
	}
	return pair
}

// freePair forgets a pair, and its key, when nothing uses them any more.
func (x *index) freePair(pair *labelPair) {
	if pair.users == 0 && pair.devices.len() == 0 {
		delete(pair.key.pairs, pair.value)
	}
	x.freeKey(pair.key)
}

func (x *index) freeKey(key *labelKey) {
	if key.users == 0 && len(key.pairs) == 0 {
		delete(x.keys, key.name)
	}
}

// relabel moves a device from its old label pairs to new ones and returns the
// keys whose value, or presence, differs.
func (x *index) relabel(slot uint32, old, new []*labelPair) (changed []*labelKey) {
	for _, pair := range new {
		if !slices.Contains(old, pair) {
			pair.devices.add(slot)
			pair.key.devices.add(slot)
			changed = append(changed, pair.key)
		}
	}
	for _, pair := range old {
		if slices.Contains(new, pair) {
			continue
		}
		pair.devices.remove(slot)
		if !slices.Contains(changed, pair.key) {
			pair.key.devices.remove(slot)
			changed = append(changed, pair.key)
		}
		x.freePair(pair)
	}
	return changed
}

// compile interns a selector's terms; release takes them back. It fails when the
// selector is not valid.
func (x *index) compile(from metav1.LabelSelector, owner *deployment) (*selector, error) {
	required, err := requirements(from)
	if err != nil {
		return nil, err
	}
	s := &selector{owner: owner, filed: none}
	for i := range required {
		r := &required[i]
		t := term{key: x.key(r.Key()), positive: !negated(r.Operator())}
		t.key.users++
		for _, value := range slices.Compact(slices.Sorted(slices.Values(r.ValuesUnsorted()))) {
			pair := x.pair(r.Key(), value)
			pair.users++
			t.pairs = append(t.pairs, pair)
		}
		s.terms = append(s.terms, t)
	}
	return s, nil
}

func (x *index) release(s *selector) {
	for i := range s.terms {
		t := &s.terms[i]
		t.key.users--
		for _, pair := range t.pairs {
			pair.users--
			x.freePair(pair)
		}
		x.freeKey(t.key)
	}
}

// file puts a selector where the devices that may match it will look.
func (x *index) file(s *selector) {
	s.filed, s.filedSize = s.rarest()
	if len(s.terms) > 0 {
		x.eachDrawer(s, func(drawer *map[*selector]struct{}) {
			if *drawer == nil {
				*drawer = map[*selector]struct{}{}
			}
			(*drawer)[s] = struct{}{}
		})
	}
}

func (x *index) unfile(s *selector) {
	x.eachDrawer(s, func(drawer *map[*selector]struct{}) {
		if delete(*drawer, s); len(*drawer) == 0 && drawer != &x.always {
			*drawer = nil
		}
	})
}

// eachDrawer calls with each place that the selector is filed in.
func (x *index) eachDrawer(s *selector, do func(*map[*selector]struct{})) {
	if s.filed == none {
		do(&x.always)
		return
	}
	t := &s.terms[s.filed]
	if len(t.pairs) == 0 {
		do(&t.key.filed)
	}
	for _, pair := range t.pairs {
		do(&pair.filed)
	}
}

// find is the set of the devices that a selector matches.
func (x *index) find(s *selector) *roaring.Bitmap {
	if len(s.terms) == 0 {
		return roaring.New()
	}
	// Positive terms first, and the rarest of them first of all: what follows
	// only makes the set smaller.
	order := make([]*term, 0, len(s.terms))
	for i := range s.terms {
		order = append(order, &s.terms[i])
	}
	slices.SortStableFunc(order, func(a, b *term) int {
		if a.positive != b.positive {
			if a.positive {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.size(), b.size())
	})
	found := x.all.bitmap()
	if order[0].positive {
		found, order = order[0].devices(), order[1:]
	}
	found = found.Clone()
	for _, t := range order {
		if named := t.devices(); t.positive {
			found.And(named)
		} else {
			found.AndNot(named)
		}
	}
	return found
}

// devices is the set of the devices that have what the term names, to be read
// only.
func (t *term) devices() *roaring.Bitmap {
	switch len(t.pairs) {
	case 0:
		return t.key.devices.bitmap()
	case 1:
		return t.pairs[0].devices.bitmap()
	}
	each := make([]*roaring.Bitmap, len(t.pairs))
	for i, pair := range t.pairs {
		each[i] = pair.devices.bitmap()
	}
	return roaring.FastOr(each...)
}
