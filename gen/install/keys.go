package install

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/nationtech/harmony-fleet/operator/keys"
)

// Folders in which pods find what Secrets hold.
const (
	keysDir  = "/etc/fleet/keys"
	tlsDir   = "/etc/fleet/tls"
	trustDir = "/etc/fleet/trust"
)

// Source of the broker's certificate: the values of values.TLS.Source.
const (
	tlsGenerated   = "generated"
	tlsCertManager = "certManager"
)

// keysSecret is the name of the Secret with all keys.
func (b builder) keysSecret() string {
	if b.v.Keys.ExistingSecret != "" {
		return b.v.Keys.ExistingSecret
	}
	return b.name("keys")
}

// tlsSecret is the name of the Secret with the broker's certificate.
func (b builder) tlsSecret() string {
	if b.v.NATS.TLS.Secret != "" {
		return b.v.NATS.TLS.Secret
	}
	return b.name("nats-tls")
}

// seeds mounts entries of the Secret with all keys, and no other.
func (b builder) seeds(entries ...string) (corev1.Volume, corev1.VolumeMount) {
	return secretVolume("keys", b.keysSecret(), keysDir, entries)
}

// authority mounts what the broker's certificate is checked with.
func (b builder) authority() (corev1.Volume, corev1.VolumeMount) {
	return secretVolume("tls", b.tlsSecret(), tlsDir, []string{"ca.crt"})
}

func secretVolume(name, secret, dir string, entries []string) (corev1.Volume, corev1.VolumeMount) {
	source := &corev1.SecretVolumeSource{SecretName: secret}
	for _, entry := range entries {
		source.Items = append(source.Items, corev1.KeyToPath{Key: entry, Path: entry})
	}
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Secret: source}},
		corev1.VolumeMount{Name: name, MountPath: dir, ReadOnly: true}
}

// keyMaker makes the Secrets that nobody else makes. A chart must not: what is
// random there is another at each rendering.
func (b builder) keyMaker() []any {
	const component = "keys"
	makesTLS := b.ownBroker() && b.v.NATS.TLS.Source == tlsGenerated
	if b.v.Keys.ExistingSecret != "" && !makesTLS {
		return nil
	}
	args := []string{"keys", "--namespace=$(NAMESPACE)", "--secret=" + b.keysSecret()}
	if b.v.Keys.ExistingSecret != "" {
		args = append(args, "--brought")
	}
	secrets := []string{b.keysSecret()}
	if makesTLS {
		args = append(args, "--tls-secret="+b.tlsSecret())
		for _, host := range b.natsHosts() {
			args = append(args, "--host="+host)
		}
		secrets = append(secrets, b.tlsSecret())
	}
	pod := b.pod(component, corev1.PodSpec{
		ServiceAccountName: b.name(component),
		Containers: []corev1.Container{{
			Name: "fleet-keys", Image: b.image("fleet-operator", b.v.Image.Digests.Operator), Resources: resources("10m", "32Mi"),
			Args: args, Env: []corev1.EnvVar{namespaceEnv()},
		}},
	})
	objects := []any{b.account(component)}
	objects = append(objects, b.role(component, keys.Rules(secrets...))...)
	return append(objects, b.deployment(component, 1, pod))
}

func namespaceEnv() corev1.EnvVar { return fieldEnv("NAMESPACE", "metadata.namespace") }

func fieldEnv(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
}
