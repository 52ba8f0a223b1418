// Package stories are what the smoke shows on a cluster: what people do with the
// product, told in steps. A story makes what it needs and takes it away; none of them
// knows where the cluster comes from.
package stories

import (
	"context"

	"github.com/nationtech/harmony-fleet/smoke/cluster"
)

// Story is one thing that people do, from its beginning to its end.
type Story struct {
	// Name to run it by.
	Name string
	// Shows says what is proved when it ends well.
	Shows string
	// Run tells the story in steps of the cluster. It leaves nothing in the cluster.
	Run func(context.Context, *cluster.Cluster) error
}

// All are the stories in the order in which they are told.
func All() []Story {
	return []Story{
		{"pod", "the cluster is a real one: a pod with a volume, a name, logs and exec", pod},
	}
}
