package fleet

import (
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
	always drawer
}

// drawer holds the selectors that are filed in one place, by a pair of their
// second term, which a device must have too; nil where that says little.
type drawer map[*labelPair][]*selector

// maxSeconds is how many pairs the second term may have for a selector to be
// filed under each of them.
const maxSeconds = 4

// labelKey is an interned label key. It lives while a pair or a term uses it.
type labelKey struct {
	name    string
	devices set // that have the key
	pairs   map[string]*labelPair
	filed   drawer // under Exists
	users   int    // terms on the key
}

// labelPair is an interned label. It lives while a device or a term uses it.
type labelPair struct {
	key     *labelKey
	value   string
	devices set
	filed   drawer // under In
	users   int    // terms that name the pair
}

func newIndex() index {
	return index{keys: map[string]*labelKey{}}
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

// relabel moves a device from its old label pairs to new ones.
func (x *index) relabel(slot uint32, old, new []*labelPair) {
	for _, pair := range old {
		if !slices.Contains(new, pair) {
			pair.devices.remove(slot)
			pair.key.devices.remove(slot)
		}
	}
	for _, pair := range new {
		if !slices.Contains(old, pair) {
			pair.devices.add(slot)
			pair.key.devices.add(slot)
		}
	}
	for _, pair := range old {
		x.freePair(pair)
	}
}

// compile interns a selector's terms; release takes them back. It fails when the
// selector is not valid.
func (x *index) compile(from metav1.LabelSelector, owner *deployment) (*selector, error) {
	required, err := requirements(from)
	if err != nil {
		return nil, err
	}
	s := &selector{owner: owner}
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
	s.order()
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

// file puts a selector, which has terms, where the devices that may match it
// will look.
func (x *index) file(s *selector) {
	x.eachPlace(s, func(in *drawer, second *labelPair) {
		if *in == nil {
			*in = drawer{}
		}
		(*in)[second] = append((*in)[second], s)
	})
}

func (x *index) unfile(s *selector) {
	x.eachPlace(s, func(in *drawer, second *labelPair) {
		at := slices.Index((*in)[second], s)
		if (*in)[second] = slices.Delete((*in)[second], at, at+1); len((*in)[second]) == 0 {
			delete(*in, second)
		}
		if len(*in) == 0 {
			*in = nil
		}
	})
}

// eachPlace calls with each place that the selector is filed in.
func (x *index) eachPlace(s *selector, do func(in *drawer, second *labelPair)) {
	first, seconds := &s.terms[0], []*labelPair{nil}
	if len(s.terms) > 1 {
		if t := &s.terms[1]; t.positive && len(t.pairs) > 0 && len(t.pairs) <= maxSeconds {
			seconds = t.pairs
		}
	}
	for _, second := range seconds {
		switch {
		case !first.positive: // and neither is the second, which is nil
			do(&x.always, second)
		case len(first.pairs) == 0:
			do(&first.key.filed, second)
		default:
			for _, pair := range first.pairs {
				do(&pair.filed, second)
			}
		}
	}
}

// candidates calls with each selector that a device with these labels may match,
// and once with each: a device has one pair of a key. The first held terms of it
// are known to hold, by the place where it was found.
func (x *index) candidates(labels []*labelPair, do func(s *selector, held int)) {
	open := func(in drawer) {
		if len(in) == 0 {
			return
		}
		for _, s := range in[nil] {
			do(s, 1)
		}
		for _, second := range labels {
			for _, s := range in[second] {
				do(s, 2)
			}
		}
	}
	for _, s := range x.always[nil] {
		do(s, 0)
	}
	for _, pair := range labels {
		open(pair.filed)
		open(pair.key.filed)
	}
}

// find is the set of the devices that a selector matches.
func (x *index) find(s *selector) *roaring.Bitmap {
	if len(s.terms) == 0 {
		return roaring.New()
	}
	first, rest := &s.terms[0], s.terms
	var found *roaring.Bitmap
	if first.positive {
		found, rest = first.devices(), rest[1:]
	} else {
		found = x.all.bitmap().Clone()
	}
	for i := range rest {
		rest[i].narrow(found)
	}
	return found
}

// devices is the set of the devices that have what the term names.
func (t *term) devices() *roaring.Bitmap {
	if len(t.pairs) == 0 {
		return t.key.devices.bitmap().Clone()
	}
	all := roaring.New()
	for _, pair := range t.pairs {
		pair.devices.addTo(all)
	}
	return all
}

// narrow takes out of found the devices for which the term does not hold. It
// meets each posting list with found alone, which is the smaller one as a rule.
func (t *term) narrow(found *roaring.Bitmap) {
	if len(t.pairs) == 0 {
		if named := t.key.devices.bitmap(); t.positive {
			found.And(named)
		} else {
			found.AndNot(named)
		}
		return
	}
	named := roaring.New()
	for _, pair := range t.pairs {
		named.Or(roaring.And(found, pair.devices.bitmap()))
	}
	if t.positive {
		found.And(named)
	} else {
		found.AndNot(named)
	}
}
