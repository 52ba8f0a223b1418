// Package images remembers which images the agent had podman pull, and decides which
// of those may go: what nothing uses any more for long enough, but never the version
// before the wanted one, so that a step back needs no network. An image that was here
// already when it was first wanted is somebody else's, and never named here.
//
// The package removes nothing, and has no I/O and no clock.
package images

import (
	"cmp"
	"slices"
	"time"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
)

// Image is one that the agent had podman pull.
type Image struct {
	// Name as the score has it, and ID of what podman pulled under that name.
	Name, ID string
	// For is the service that used it last.
	For reconcile.Key
	// Unused is since when nothing uses it; zero while something does.
	Unused time.Time
}

// Use is what is used now.
type Use struct {
	// Wanted are the names of images with the services that want them, and Services
	// all that are wanted.
	Wanted   map[string][]reconcile.Key
	Services map[reconcile.Key]bool
	// Containers are the ids of the images that containers of this device were made of.
	Containers map[string]bool
}

// NewUse is of the images that are wanted, by service, and of the containers.
func NewUse(wanted map[reconcile.Key]string, containers []reconcile.Container) Use {
	u := Use{Wanted: map[string][]reconcile.Key{}, Services: map[reconcile.Key]bool{}, Containers: map[string]bool{}}
	for key, name := range wanted {
		u.Wanted[name] = append(u.Wanted[name], key)
		u.Services[key] = true
	}
	for _, c := range containers {
		u.Containers[c.Image] = true
	}
	return u
}

// Pulled is all images with one that was just pulled; an older one of the name is
// forgotten.
func Pulled(all []Image, one Image) []Image {
	all = slices.DeleteFunc(slices.Clone(all), func(i Image) bool { return i.Name == one.Name })
	return append(all, one)
}

// Gone is all images without those.
func Gone(all, gone []Image) []Image {
	return slices.DeleteFunc(slices.Clone(all), func(i Image) bool {
		return slices.ContainsFunc(gone, func(g Image) bool { return g.Name == i.Name && g.ID == i.ID })
	})
}

// Look is all images as they are used now.
func Look(all []Image, use Use, now time.Time) []Image {
	next := slices.Clone(all)
	for n := range next {
		i := &next[n]
		if keys := use.Wanted[i.Name]; len(keys) > 0 && !slices.Contains(keys, i.For) {
			i.For = slices.MinFunc(keys, compare)
		}
		switch used := use.used(*i); {
		case used:
			i.Unused = time.Time{}
		case i.Unused.IsZero():
			i.Unused = now
		}
	}
	return next
}

// Spare are the images that may go: those that nothing has used for so long, apart
// from the last one of each wanted service before the one that it wants.
func Spare(all []Image, use Use, now time.Time, age time.Duration) (spare []Image) {
	previous := map[reconcile.Key]Image{}
	for _, i := range all {
		if last, known := previous[i.For]; len(use.Wanted[i.Name]) == 0 && (!known || i.after(last)) {
			previous[i.For] = i
		}
	}
	for _, i := range all {
		kept := use.Services[i.For] && previous[i.For] == i
		if !use.used(i) && !kept && !i.Unused.IsZero() && now.Sub(i.Unused) >= age {
			spare = append(spare, i)
		}
	}
	return spare
}

func (u Use) used(i Image) bool { return len(u.Wanted[i.Name]) > 0 || u.Containers[i.ID] }

// after reports whether i was used later than o.
func (i Image) after(o Image) bool {
	if i.Unused.IsZero() != o.Unused.IsZero() {
		return i.Unused.IsZero()
	}
	return i.Unused.After(o.Unused)
}

func compare(a, b reconcile.Key) int {
	return cmp.Or(cmp.Compare(a.Deployment.String(), b.Deployment.String()), cmp.Compare(a.Service, b.Service))
}
