// Package demo brings the whole fleet up on one machine with real parts: a
// control plane, the broker, the operator, a registry, and two devices that each
// have an agent and a podman of their own. It then hands over to a person with a
// menu of commands to copy, or runs the main story as a regression. It applies
// nothing by itself before that, and takes everything down again.
package demo
