package install

import (
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/operator"
	"github.com/nationtech/harmony-fleet/operator/publish"
)

// Ports of operator and callout, as their configurations' defaults have them.
const (
	metricsPort = 8080
	probesPort  = 8081
)

// configKey is the entry of a ConfigMap that is a program's configuration file.
const configKey = "config.yaml"

func (b builder) operatorConfig() []any {
	return []any{b.configMap("operator", b.operatorConfigData())}
}

func (b builder) operatorConfigData() map[string]string {
	c, chosen := config.OperatorDefaults(), b.v.Operator.Config
	c.NATS = b.natsSection()
	c.Credentials = config.Credentials{Type: config.CredentialNKey, SeedFile: keysDir + "/operator.seed"}
	c.Signing = config.Signing{KeyFiles: []string{keysDir + "/signing.seed"}, Validity: chosen.Signing.Validity}
	c.LeaderElection.Namespace = b.r.Namespace
	c.Publish = config.PublishSection{ConfigMap: config.PublishedName, NATSURL: b.v.NATS.DevicesURL, CAFile: tlsDir + "/ca.crt"}
	c.OpenBao, c.Roster, c.Status = chosen.OpenBao, chosen.Roster, chosen.Status
	c.DeleteTimeout, c.AuditInterval = chosen.DeleteTimeout, chosen.AuditInterval
	c.LogLevel = string(chosen.LogLevel)
	return map[string]string{configKey: text(c)}
}

// natsSection is how a program of the cluster reaches the broker.
func (b builder) natsSection() config.NATSSection {
	return config.NATSSection{URLs: []string{b.natsURL()}, CAFile: tlsDir + "/ca.crt"}
}

// text is a configuration as a file.
func text(c any) string {
	data, err := yaml.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("encoding a configuration: %v", err)) // texts and numbers alone
	}
	return string(data)
}

func (b builder) operator() []any {
	const component = "operator"
	keys, keysMount := b.seeds("operator.seed", "signing.seed")
	pod := b.program(program{
		component: component, keys: keys, keysMount: keysMount,
		container: corev1.Container{
			Name: "fleet-operator", Image: b.image("fleet-operator", b.v.Image.Digests.Operator), Resources: b.v.Operator.Resources,
		},
	})
	pod.Annotations = b.checksum(OperatorConfigFile, b.operatorConfigData())
	objects := []any{b.account(component)}
	objects = append(objects, b.clusterRole(component, clusterRules())...)
	objects = append(objects, b.role(component, append(operator.LeaseRules(), publish.Rules(config.PublishedName)...))...)
	objects = append(objects, b.deployment(component, b.v.Operator.Replicas, pod), b.metricsService(component))
	return append(objects, b.budget(component, b.v.Operator.Replicas)...)
}

// clusterRules reads definitions to name them: once is enough.
var clusterRules = sync.OnceValue(operator.ClusterRules)

// program is what a pod of operator or callout has of its own.
type program struct {
	component string
	container corev1.Container
	keys      corev1.Volume
	keysMount corev1.VolumeMount
}

// program is a pod with a configuration, keys, the broker's authority and, when
// there is one, the authority of provider and OpenBao.
func (b builder) program(p program) corev1.PodTemplateSpec {
	const configDir = "/etc/fleet/config"
	authority, authorityMount := b.authority()
	volumes := []corev1.Volume{configVolume("config", b.name(p.component)), p.keys, authority}
	c := &p.container
	c.Args = []string{"--config=" + configDir + "/" + configKey}
	c.Ports = []corev1.ContainerPort{{Name: "metrics", ContainerPort: metricsPort}, {Name: "probes", ContainerPort: probesPort}}
	c.LivenessProbe, c.ReadinessProbe = probe("/healthz", "probes"), probe("/readyz", "probes")
	c.VolumeMounts = []corev1.VolumeMount{{Name: "config", MountPath: configDir, ReadOnly: true}, p.keysMount, authorityMount}
	if trusted := b.v.Trust.ConfigMap; trusted != "" {
		volumes = append(volumes, configVolume("trust", trusted))
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "trust", MountPath: trustDir, ReadOnly: true})
		c.Env = append(c.Env, corev1.EnvVar{Name: "SSL_CERT_FILE", Value: trustDir + "/ca.crt"})
	}
	return b.pod(p.component, corev1.PodSpec{
		ServiceAccountName: b.name(p.component), Volumes: volumes, Containers: []corev1.Container{*c},
	})
}

func configVolume(name, configMap string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: configMap},
	}}}
}

func (b builder) metricsService(component string) *corev1.Service {
	return &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: b.meta(component),
		Spec: corev1.ServiceSpec{Selector: b.selector(component), Ports: []corev1.ServicePort{servicePort("metrics", metricsPort)}},
	}
}
