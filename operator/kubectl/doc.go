// Package kubectl is `kubectl fleet`: the everyday work with the fleet without
// writing YAML. It reads and writes the fleet's resources as the person who runs
// it, with the kubeconfig that kubectl uses. What only the broker knows (how each
// device does, its logs) it asks the broker, when it is told how to reach it. It
// never writes to the broker and changes nothing on a device but through a
// Deployment.
package kubectl
