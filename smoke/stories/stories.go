// Package stories are what the smoke shows on a cluster: what people do with the
// product, told in steps. A story makes what it needs and takes it away; it never
// knows where the cluster comes from.
package stories

import (
	"context"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/cluster"
)

// Story is one thing that people do, from its beginning to its end.
type Story struct {
	// Name to run it by.
	Name string
	// Shows says what is proved when it ends well.
	Shows string
	// Run tells the story in steps of the cluster. One that ends well leaves nothing
	// in the cluster; one that fails leaves what there is to look at.
	Run func(context.Context, *cluster.Cluster) error
}

// All are the stories in the order in which they are begun: after what all others need,
// the long ones, since several clusters may share them.
func All() []Story {
	return []Story{
		{"pod", "the cluster is a real one: a pod with a volume, a name, logs and exec", pod},
		{"install", "helm install with no values gives a fleet: a device joins, runs what it shall, and the status is true", install},
		{"argocd", "Argo CD installs a fleet from git, keeps it as it is there, and tells how devices do", gitops},
		{"hardship", "whatever befalls a device's podman and its disk, what runs goes on, people are told, and it recovers alone", hardship},
		{"faults", "whatever part fails, a change arrives and what runs goes on", faults},
		{"offline", "a device that is cut off, or copied, or badly connected runs on, its status is true, and it goes straight to what is wanted last", offline},
		{"upgrade", "a release replaces the one before and loses nothing, and what would lose something is refused", upgrade},
		{"ha", "of three servers and two operators one may fail, and few notice", available},
		{"vm", "a virtual machine installs the agent with apt when it is first booted, joins, runs what it shall, and has its agent upgraded", virtual},
		{"security", "an installation with the values of a security team: no secret of its own, a provider of tokens, closed ports", secured},
		{"kustomize", "kubectl apply -k of the base gives what the chart gives without values", kustomized},
		{"helm4", "Helm 4, which applies on the server, installs and upgrades too, and finds nothing to do the second time", helm4},
		{"docs", "the commands of docs/install.md do what it says, as they stand", docs},
		{"mistakes", "what people get wrong is refused by an error that says what is wrong where, and changes nothing", mistakes},
	}
}

// Endurance are stories that last longer than anybody waits for with each change: they are
// told by their names alone.
func Endurance() []Story {
	return []Story{
		{"powercuts", "a device that loses its power at any step of an apply, its network or its time runs the old or the new version, and gets to the new one", powercuts},
		{"dnf", "dnf installs, upgrades, downgrades and removes the agent of a virtual machine, and what runs there never notices", dnf},
	}
}

// patience is how long something may take that takes seconds on an idle machine, and
// more in a virtual one whose processor is a program.
const patience = 6 * time.Minute

// eventually tries again and again: what one part of a cluster knows reaches others
// later. The error is that of the last try.
func eventually(ctx context.Context, try func() error) error {
	for end := time.Now().Add(patience); ; {
		err := try()
		if err == nil || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(500 * time.Millisecond):
		}
	}
}
