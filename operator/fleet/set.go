package fleet

import (
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
)

// fewMax is how many members a set holds in a plain slice. Most sets have one
// member (every device has a label of its own), and a bitmap costs some 200
// bytes before its first.
const fewMax = 16

// set is a set of device slots. Its zero value is empty.
type set struct {
	few  []uint32 // sorted; all members while many is nil
	many *roaring.Bitmap
}

func (s *set) add(slot uint32) {
	if s.many != nil {
		s.many.Add(slot)
		return
	}
	at, found := slices.BinarySearch(s.few, slot)
	if found {
		return
	}
	if len(s.few) == fewMax {
		s.many, s.few = roaring.BitmapOf(s.few...), nil
		s.many.Add(slot)
		return
	}
	s.few = slices.Insert(s.few, at, slot)
}

func (s *set) remove(slot uint32) {
	if s.many == nil {
		if at, found := slices.BinarySearch(s.few, slot); found {
			s.few = slices.Delete(s.few, at, at+1)
		}
		return
	}
	s.many.Remove(slot)
	// Half of fewMax, so that a set at the border does not change its form with
	// every member that comes and goes.
	if s.many.GetCardinality() <= fewMax/2 {
		s.few, s.many = s.many.ToArray(), nil
	}
}

func (s *set) len() int {
	if s.many != nil {
		return int(s.many.GetCardinality())
	}
	return len(s.few)
}

// slots lists the members in ascending order: a copy, so that the set may change
// while it is walked.
func (s *set) slots() []uint32 {
	if s.many != nil {
		return s.many.ToArray()
	}
	return slices.Clone(s.few)
}

// bitmap is the set as a bitmap, to be read only.
func (s *set) bitmap() *roaring.Bitmap {
	if s.many != nil {
		return s.many
	}
	return roaring.BitmapOf(s.few...)
}

// addTo adds the members to another set.
func (s *set) addTo(all *roaring.Bitmap) {
	if s.many != nil {
		all.Or(s.many)
	} else {
		all.AddMany(s.few)
	}
}
