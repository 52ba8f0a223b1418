// Package device says what the smoke's stories ask of a device, wherever that is: this
// host with a podman of its own, or a virtual machine (package vm). What only machines
// can do, such as to lose their power, is theirs.
package device

import "context"

// Device is a computer with podman and the agent.
type Device interface {
	// Podman runs a podman command there, and returns what it wrote to standard output.
	Podman(ctx context.Context, args ...string) (string, error)
	// Agent runs a command of the agent's program there, and returns what it wrote.
	Agent(ctx context.Context, args ...string) (string, error)
	// Reach is how it gets to what is at an address of this host's loopback; more may
	// follow that, such as the name of an image.
	Reach(address string) string
	// Port is one that a container may publish there, and URL where this host finds
	// then what it serves.
	Port() (port int, url string, err error)
	// Log is the end of what its agent logged, and why there is none.
	Log(ctx context.Context) string
}
