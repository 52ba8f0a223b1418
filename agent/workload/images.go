package workload

import (
	"context"
	"slices"
	"time"

	"github.com/go-logr/logr"

	"github.com/nationtech/harmony-fleet/agent/images"
	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// collectPause is the time between two rounds of removals while the disk is not low:
// an image that a container of somebody else's uses cannot be removed.
const collectPause = time.Hour

// collector keeps the images that were pulled here, on the disk too, and removes those
// that may go.
type collector struct {
	all   []images.Image
	store *store.Store
	log   logr.Logger
	// removed has the outcome of a round, which runs beside the loop; busy while one does.
	removed chan []images.Image
	busy    bool
	next    time.Time
	// low says that a pull found too little room.
	low bool
}

func (m *Manager) newCollector() collector {
	all, err := m.options.Store.LoadImages()
	if err != nil {
		m.options.Log.Error(err, "images that were pulled here are not known, and stay")
	}
	return collector{all: all, store: m.options.Store, log: m.options.Log, removed: make(chan []images.Image, 1)}
}

// set takes over what changed. What cannot be written is lost with the process, which
// leaves an image on the disk.
func (c *collector) set(all []images.Image) {
	if slices.Equal(all, c.all) {
		return
	}
	c.all = all
	if err := c.store.SaveImages(all); err != nil {
		c.log.Error(err, "images that were pulled here are not remembered")
	}
}

// pulled takes in what a step brought.
func (c *collector) pulled(r result) {
	if r.outcome.Fetched != "" {
		one := images.Image{Name: r.step.Service.Spec.Image, ID: r.outcome.Fetched, For: r.step.Key}
		c.set(images.Pulled(c.all, one))
	}
	if f := r.outcome.Err; f != nil && (f.Reason == reconcile.ReasonDiskSpaceLow || f.Reason == reconcile.ReasonDiskFull) {
		c.low = true
	}
}

// forget takes in what a round removed.
func (c *collector) forget(gone []images.Image) {
	c.busy = false
	c.set(images.Gone(c.all, gone))
}

// collect begins a round when there is something to remove: what is old enough, and
// when the disk is low whatever may go at all. Nothing goes while the device is held, or
// while it is not known what a score wants.
func (l *loop) collect(ctx context.Context, wanted map[wire.DeploymentID]reconcile.Wanted, containers []reconcile.Container) {
	c, now := &l.images, l.options.Clock()
	names := map[reconcile.Key]string{}
	for id, w := range wanted {
		if w.Err != nil {
			return
		}
		for _, svc := range w.Services {
			names[reconcile.Key{Deployment: id, Service: svc.Spec.Name}] = svc.Spec.Image
		}
	}
	use := images.NewUse(names, containers)
	c.set(images.Look(c.all, use, now))
	age := l.options.ImageRetention
	if age == 0 || c.busy || l.Hold() != nil || !c.low && now.Before(c.next) {
		return
	}
	if c.low {
		age = 0
	}
	c.low = false
	spare := images.Spare(c.all, use, now, age)
	if len(spare) == 0 {
		return
	}
	c.busy, c.next = true, now.Add(collectPause)
	l.steps.Go(func() { c.removed <- l.remove(ctx, spare) })
}

// remove tells which images are gone.
func (l *loop) remove(ctx context.Context, spare []images.Image) (gone []images.Image) {
	for _, i := range spare {
		if err := l.options.Podman.RemoveImage(ctx, i.Name, i.ID); err != nil {
			l.options.Log.Info("image not removed", "image", i.Name, "reason", err.Error())
			continue
		}
		l.options.Log.Info("image removed, since nothing has used it", "image", i.Name, "since", i.Unused)
		gone = append(gone, i)
	}
	return gone
}
