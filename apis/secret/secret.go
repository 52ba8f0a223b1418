// Package secret says where OpenBao holds the secrets of Deployments, and how it
// is told which of them a device may read: the operator writes them into the
// metadata of the device's entity, and one policy that is the same for all devices
// lets each read what its own metadata names. So a device can widen nothing, and
// the operator can open nothing but secrets of Deployments.
//
// It is plain values and pure functions.
package secret

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// MaxPerDevice is how many secrets one device may read. OpenBao takes 64 pairs of
// metadata for an entity, and leaves room for others'.
const MaxPerDevice = 48

// Names in OpenBao.
const (
	// DevicePolicy is the policy that every device's login has.
	DevicePolicy = "fleet-device"
	// folder of all secrets in the KV engine.
	folder = "secrets/"
)

// Ref names one secret of one Deployment.
type Ref struct {
	Deployment wire.DeploymentID
	// Name of the secret, a DNS label.
	Name string
}

// Path of the secret in the KV engine: "secrets/<namespace>/<deployment>/<name>".
func (r Ref) Path() string { return folder + r.String() }

// String is how metadata names the secret, and what ParseRef reads: its path
// without the folder. All three parts are DNS labels: in a path of a policy nothing
// in it means anything else.
func (r Ref) String() string {
	return r.Deployment.Namespace + "/" + r.Deployment.Name + "/" + r.Name
}

// ParseRef reads a secret's path without its folder,
// "<namespace>/<deployment>/<name>".
func ParseRef(text string) (Ref, error) {
	parts := strings.Split(text, "/")
	if len(parts) != 3 {
		return Ref{}, fmt.Errorf("secret %q: want namespace/deployment/name", text)
	}
	id, err := wire.ParseDeploymentID(parts[0], parts[1])
	_, nameErr := wire.ParseDeploymentID(parts[0], parts[2])
	if err := errors.Join(err, nameErr); err != nil {
		return Ref{}, fmt.Errorf("secret %q: %w", text, err)
	}
	return Ref{Deployment: id, Name: parts[2]}, nil
}

// EntityName is that of the device's entity in OpenBao's identity store.
func EntityName(id wire.DeviceID) string { return "device-" + string(id) }

// slot is the name of the nth pair of metadata.
func slot(n int) string { return fmt.Sprintf("secret%02d", n) }

func isSlot(key string) bool {
	for n := range MaxPerDevice {
		if key == slot(n) {
			return true
		}
	}
	return false
}

// Grant is the metadata of an entity that may read these secrets, of which the
// order does not matter: what was there before, without earlier grants. Beyond
// MaxPerDevice none is granted, and over counts those.
func Grant(before map[string]string, refs []Ref) (metadata map[string]string, over int) {
	refs = slices.Clone(refs)
	slices.SortFunc(refs, func(a, b Ref) int { return cmp.Compare(a.String(), b.String()) })
	refs = slices.Compact(refs)
	metadata = map[string]string{}
	for key, value := range before {
		if !isSlot(key) {
			metadata[key] = value
		}
	}
	over = max(0, len(refs)-MaxPerDevice)
	for n, ref := range refs[:len(refs)-over] {
		metadata[slot(n)] = ref.String()
	}
	return metadata, over
}

// DeviceRules are the rules of DevicePolicy, for a KV engine at that mount. A rule
// whose metadata is missing permits nothing.
func DeviceRules(mount string) string {
	var rules strings.Builder
	for n := range MaxPerDevice {
		fmt.Fprintf(&rules, "path \"%s/data/%s{{identity.entity.metadata.%s}}\" { capabilities = [\"read\"] }\n", mount, folder, slot(n))
	}
	return rules.String()
}

// OperatorRules are what the operator needs besides reading policies: it may say
// which secrets a device reads, and can give the device nothing else.
func OperatorRules() string {
	return fmt.Sprintf(`path "identity/entity/name/%s" {
  capabilities = ["read", "update"]
  allowed_parameters = { "metadata" = [] }
}
`, EntityName("*"))
}
