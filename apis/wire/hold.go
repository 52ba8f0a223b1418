package wire

import "time"

// Holder is who has a device change nothing for a while.
type Holder string

const (
	// HeldByDevice: somebody on the device asked for it.
	HeldByDevice Holder = "device"
	// HeldByCluster: the device's manifest says so.
	HeldByCluster Holder = "cluster"
)

// Hold is until when a device changes nothing of what it runs, and for whom.
type Hold struct {
	Until time.Time `json:"until"`
	By    Holder    `json:"by"`
}
