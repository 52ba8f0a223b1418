package images_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nationtech/harmony-fleet/agent/images"
	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

var now = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func service(name string) reconcile.Key {
	return reconcile.Key{Deployment: wire.DeploymentID{Namespace: "shop", Name: "web"}, Service: name}
}

// device plays versions of services, each with the container that it leaves running.
type device struct {
	all        []images.Image
	wanted     map[reconcile.Key]string
	containers map[reconcile.Key]string
	now        time.Time
}

func newDevice() *device {
	return &device{wanted: map[reconcile.Key]string{}, containers: map[reconcile.Key]string{}, now: now}
}

func (d *device) use() images.Use {
	var containers []reconcile.Container
	for key, name := range d.containers {
		containers = append(containers, reconcile.Container{Key: key, Image: "id of " + name})
	}
	return images.NewUse(d.wanted, containers)
}

// want has the service want an image, which is pulled unless it is here.
func (d *device) want(key reconcile.Key, name string) {
	d.wanted[key] = name
	if !slices.ContainsFunc(d.all, func(i images.Image) bool { return i.Name == name }) {
		d.all = images.Pulled(d.all, images.Image{Name: name, ID: "id of " + name, For: key})
	}
	d.look()
}

func (d *device) look() { d.all = images.Look(d.all, d.use(), d.now) }

func (d *device) pass(t time.Duration) {
	d.now = d.now.Add(t)
	d.look()
}

// run has the wanted versions run, and nothing else.
func (d *device) run() {
	clear(d.containers)
	for key, name := range d.wanted {
		d.containers[key] = name
	}
	d.pass(time.Minute)
}

func (d *device) spare(age time.Duration) (names []string) {
	for _, i := range images.Spare(d.all, d.use(), d.now, age) {
		names = append(names, i.Name)
	}
	slices.Sort(names)
	return names
}

func TestThePreviousVersionStays(t *testing.T) {
	d, app := newDevice(), service("app")
	for version := range 4 {
		d.want(app, fmt.Sprint("app:", version))
		d.run()
	}
	expect := func(when string, age time.Duration, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, d.spare(age)); diff != "" {
			t.Errorf("%s (- want, + got):\n%s", when, diff)
		}
	}
	expect("too young", time.Hour)
	expect("the disk is low", 0, "app:0", "app:1")
	d.pass(time.Hour)
	expect("old enough", time.Hour, "app:0", "app:1")
	d.want(app, "app:4") // pulled, while app:3 runs
	expect("an upgrade is under way", 0, "app:0", "app:1", "app:2")
	d.want(app, "app:2")
	d.run()
	expect("a step back", 0, "app:0", "app:1", "app:4")
	clear(d.wanted)
	d.run()
	expect("nothing is wanted", 0, "app:0", "app:1", "app:2", "app:3", "app:4")
}

func TestSharedImage(t *testing.T) {
	d, one, two := newDevice(), service("one"), service("two")
	d.want(one, "app:1")
	d.want(two, "app:1")
	d.run()
	d.want(one, "app:2")
	d.run()
	d.want(one, "app:3")
	d.run()
	if got := d.spare(0); len(got) > 0 {
		t.Errorf("spare %q: app:1 is used by another service, and app:2 is the previous one", got)
	}
}

// Whatever happens, what is used stays, and so does the last version before the
// wanted one.
func TestNothingInUseGoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newDevice()
		before := map[reconcile.Key]string{}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			key := service(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "service"))
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				delete(d.wanted, key)
			case 1:
				d.run()
			default:
				next := fmt.Sprint(key.Service, rapid.IntRange(0, 4).Draw(t, "version"))
				if last := d.wanted[key]; last != "" && last != next && d.containers[key] == last {
					before[key] = last
				}
				d.want(key, next)
				d.run()
			}
			spare := images.Spare(d.all, d.use(), d.now, 0)
			for _, i := range spare {
				if slices.Contains(slices.Collect(maps.Values(d.wanted)), i.Name) || slices.Contains(slices.Collect(maps.Values(d.containers)), i.Name) {
					t.Fatalf("%s is used", i.Name)
				}
				if wanted := d.wanted[i.For]; wanted != "" && before[i.For] == i.Name && wanted != i.Name {
					t.Fatalf("%s is the version before %s", i.Name, wanted)
				}
			}
			d.all = images.Gone(d.all, spare)
		}
	})
}
