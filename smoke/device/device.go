// Package device says what the smoke's stories ask of a device, wherever that is: this
// host with a podman of its own, a virtual machine (package vm), or a part of this
// process (package simulated). What only machines can do, such as to lose their power,
// is theirs.
package device

import "context"

// Device is one of a fleet.
type Device interface {
	// Running tells what runs there, one workload in each line and "" for nothing, such
	// that a workload which was started anew has another line. It can be asked for
	// Deployments of some names alone.
	Running(ctx context.Context, of ...string) (string, error)
	// Log is the end of what its agent logged, and why there is none.
	Log(ctx context.Context) string
}

// Computer is a device with podman and the agent's program.
type Computer interface {
	Device
	// Agent runs a command of the agent's program there, and returns what it wrote.
	Agent(ctx context.Context, args ...string) (string, error)
	// Reach is how it gets to what is at an address of this host's loopback; more may
	// follow that, such as the name of an image.
	Reach(address string) string
	// Port is one that a container may publish there, and URL where this host finds
	// then what it serves.
	Port() (port int, url string, err error)
}
