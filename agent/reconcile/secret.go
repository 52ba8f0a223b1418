package reconcile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// SecretKey names one value: a key of one secret of a Deployment.
type SecretKey struct {
	secret.Ref
	Key string
}

// SecretVersion tells the versions of one secret apart: OpenBao's number and when
// it was written. A digest of the value would do so too, and give a weak password
// away.
type SecretVersion string

// Secret is how one value stands on this device.
type Secret struct {
	// Version of the secret whose value podman holds; "" when it holds none.
	Version SecretVersion
	// Err is why a newer one, or any, is not to be had; nil when nothing is wrong.
	Err *Failure
}

// SecretPrefix begins the names of all secrets of the device in one podman, which
// two agents may share.
func SecretPrefix(device wire.DeviceID) string { return "fleet-" + hexOf(string(device), 8) + "-" }

// SecretName is the name under which podman holds the value in that version. It
// says nothing of the value, and podman takes 64 characters.
func SecretName(device wire.DeviceID, key SecretKey, version SecretVersion) string {
	return SecretPrefix(device) + hexOf(strings.Join([]string{key.Path(), key.Key, string(version)}, "\n"), 16)
}

// hexOf is the beginning of a text's digest, of so many bytes.
func hexOf(text string, bytes int) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:bytes])
}

// SecretKeys are the values that the services of the Deployment name, each once,
// in order.
func (w Wanted) SecretKeys(id wire.DeploymentID) []SecretKey {
	named := map[SecretKey]bool{}
	for _, svc := range w.Services {
		for _, s := range svc.Spec.Secrets {
			named[keyOf(id, s)] = true
		}
	}
	return slices.SortedFunc(maps.Keys(named), func(a, b SecretKey) int {
		return strings.Compare(a.Path()+"\n"+a.Key, b.Path()+"\n"+b.Key)
	})
}

func keyOf(id wire.DeploymentID, s score.Secret) SecretKey {
	return SecretKey{Ref: secret.Ref{Deployment: id, Name: s.Name}, Key: s.Key}
}

// NamedSecret is a secret of a service together with its name in podman.
type NamedSecret struct {
	score.Secret
	PodmanName string
}

// Secrets are those of the step's service, as podman holds them for the device.
func (s Step) Secrets(device wire.DeviceID) []NamedSecret {
	var named []NamedSecret
	for _, one := range s.Service.Spec.Secrets {
		name := SecretName(device, keyOf(s.Deployment, one), s.Service.Versions[one.Name])
		named = append(named, NamedSecret{Secret: one, PodmanName: name})
	}
	return named
}

// Supplied is the service with the versions of its secrets, which its digest
// covers, so that a new version leads to a new container. Without secrets it is as
// it was.
func (svc Service) Supplied(id wire.DeploymentID, secrets map[SecretKey]Secret) Service {
	if len(svc.Spec.Secrets) == 0 {
		return svc
	}
	svc.Digest, svc.Versions = "", map[string]SecretVersion{}
	complete := true
	for _, one := range svc.Spec.Secrets {
		s := secrets[keyOf(id, one)]
		if s.Version == "" {
			complete = false
			if s.Err == nil {
				s.Err = &Failure{Reason: ReasonSecretUnavailable, Message: fmt.Sprintf("secret %q was not read yet", one.Name)}
			}
		} else {
			svc.Versions[one.Name] = s.Version
		}
		svc.Withheld = svc.worse(s)
	}
	if complete {
		text := string(svc.Spec.Digest())
		for _, name := range slices.Sorted(maps.Keys(svc.Versions)) {
			text += "\n" + name + "\n" + string(svc.Versions[name])
		}
		svc.Digest = score.DigestOf([]byte(text))
	}
	return svc
}

// worse is why the service gets no container, having looked at one more secret:
// what a person must change comes before what may pass. Being unable to ask for a
// newer version keeps nothing from running with the one at hand.
func (svc Service) worse(s Secret) *Failure {
	passes := s.Err != nil && s.Err.Reason == ReasonSecretUnavailable
	switch {
	case s.Err == nil, passes && s.Version != "":
		return svc.Withheld
	case svc.Withheld == nil, svc.Withheld.Reason == ReasonSecretUnavailable:
		return s.Err
	}
	return svc.Withheld
}

// exposed reports whether a secret is in the container's environment.
func (svc Service) exposed() bool {
	return slices.ContainsFunc(svc.Spec.Secrets, func(s score.Secret) bool { return s.Env != "" })
}
