// Package images makes the container images of a release: our programs, linked
// statically, on a base that has nothing but certificate authorities and a user
// without rights. It needs Go and no container runtime, and the same commit gives
// the same bytes on every machine. It never pushes anything.
package images

import "github.com/nationtech/harmony-fleet/release/compile"

// Image is what a container image is made of.
type Image struct {
	// Name is the last part of its repository.
	Name string
	// Description is one line for people who look at a registry.
	Description string
	// Programs are what it holds, in bin. It runs the first; a pod names another
	// as its command.
	Programs []compile.Program
}

// Released are the images of a release.
var Released = []Image{
	{
		Name:        "fleet-operator",
		Description: "The operator of Harmony Fleet: matches Deployments to Devices and reports how they do",
		Programs:    []compile.Program{"operator/cmd/fleet-operator", "operator/cmd/fleet-reload"},
	},
	{
		Name:        "fleet-callout",
		Description: "The auth callout of Harmony Fleet: decides for the NATS broker who may connect",
		Programs:    []compile.Program{"operator/cmd/fleet-callout"},
	},
}

// Architectures are those that a release is built for, as Go names them.
var Architectures = []string{"amd64", "arm64"}

// bin is the folder of the programs; PATH is that folder alone.
const bin = "usr/local/bin"

// user is nobody in particular: the number that images without a shell have come
// to use. Nothing in an image belongs to it, so that any other may run it too.
const user = "65532"
