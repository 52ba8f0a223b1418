package install

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	natsConfigDir = "/etc/nats"
	natsDataDir   = "/data"
	// headless is the Service that names each server for its peers.
	headless = "nats-pods"
	// exporterPort is where the exporter has metrics.
	exporterPort = 7777
)

// serviceHost is how pods of the cluster call what a Service is for.
func (b builder) serviceHost(component string) string {
	return b.name(component) + "." + b.r.Namespace + ".svc"
}

func (b builder) natsHost() string { return b.serviceHost("nats") }

// ownBroker tells whether the broker is the installation's.
func (b builder) ownBroker() bool { return b.v.NATS.URL == "" }

// natsURL is where operator, callout and NACK find the broker.
func (b builder) natsURL() string {
	if b.ownBroker() {
		return "tls://" + b.natsHost() + ":4222"
	}
	return b.v.NATS.URL
}

// natsHosts are the names that the broker's certificate has to have. Who forwards a
// port calls it localhost.
func (b builder) natsHosts() []string {
	hosts := []string{b.natsHost(), b.name("nats"), "*." + b.name(headless) + "." + b.r.Namespace + ".svc", "localhost"}
	for _, host := range b.v.NATS.TLS.Hosts {
		hosts = append(hosts, string(host))
	}
	return hosts
}

func (b builder) nats() []any {
	if !b.ownBroker() {
		return nil
	}
	account := b.account("nats")
	account.AutomountServiceAccountToken = new(false)
	objects := []any{account, b.natsPeers(), b.natsService(), b.natsServers()}
	if b.v.NATS.TLS.Source == tlsCertManager {
		objects = append(objects, b.certificate())
	}
	return append(objects, b.budget("nats", b.v.NATS.Replicas)...)
}

func (b builder) natsService() *corev1.Service {
	s := &corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: b.meta("nats")}
	s.Annotations = b.v.NATS.Service.Annotations
	s.Spec = corev1.ServiceSpec{
		Type: b.v.NATS.Service.Type, Selector: b.selector("nats"),
		Ports: []corev1.ServicePort{servicePort("client", 4222)},
	}
	return s
}

// natsPeers lets servers find each other before they are ready.
func (b builder) natsPeers() *corev1.Service {
	s := &corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: b.meta("nats")}
	s.Name = b.name(headless)
	s.Spec = corev1.ServiceSpec{
		ClusterIP: corev1.ClusterIPNone, PublishNotReadyAddresses: true, Selector: b.selector("nats"),
		Ports: []corev1.ServicePort{servicePort("client", 4222), servicePort("routes", 6222)},
	}
	if b.v.NATS.Exporter != "" {
		s.Spec.Ports = append(s.Spec.Ports, servicePort("metrics", exporterPort))
	}
	return s
}

func servicePort(name string, port int32) corev1.ServicePort {
	return corev1.ServicePort{Name: name, Port: port, TargetPort: intstr.FromString(name)}
}

func (b builder) natsServers() *appsv1.StatefulSet {
	replicas := b.v.NATS.Replicas
	volume := corev1.PersistentVolumeClaim{
		// These two and the mode are what the API server would add, which Argo CD
		// would take for a difference again and again.
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
		ObjectMeta: metav1.ObjectMeta{Name: "data", Labels: b.selector("nats")},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			StorageClassName: b.v.NATS.Storage.ClassName,
			VolumeMode:       new(corev1.PersistentVolumeFilesystem),
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: b.v.NATS.Storage.Size}},
		},
	}
	return &appsv1.StatefulSet{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "StatefulSet"}, ObjectMeta: b.meta("nats"),
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, ServiceName: b.name(headless), Template: b.natsPod(),
			Selector: &metav1.LabelSelector{MatchLabels: b.selector("nats")},
			// Three that start for the first time need each other.
			PodManagementPolicy:  appsv1.ParallelPodManagement,
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{volume},
		},
	}
}

func (b builder) natsPod() corev1.PodTemplateSpec {
	tls, tlsMount := secretVolume("tls", b.tlsSecret(), tlsDir, []string{"tls.crt", "tls.key", "ca.crt"})
	config := corev1.Volume{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: b.name("nats")},
	}}}
	user := b.user()
	user.FSGroupChangePolicy = new(corev1.FSGroupChangeOnRootMismatch)
	containers := append([]corev1.Container{b.natsServer(tlsMount), b.reloader(tlsMount)}, b.exporter()...)
	pod := b.pod("nats", corev1.PodSpec{
		ServiceAccountName:            b.name("nats"),
		SecurityContext:               user,
		TerminationGracePeriodSeconds: new(int64(60)),
		Volumes:                       []corev1.Volume{config, tls},
		Containers:                    containers,
		// The one beside sends signals to the server.
		ShareProcessNamespace: new(true),
	})
	pod.Annotations = b.checksum(NATSConfigFile, b.natsConfigData())
	return pod
}

func (b builder) natsServer(tls corev1.VolumeMount) corev1.Container {
	return corev1.Container{
		Name: "nats", Image: b.v.NATS.Image, Resources: b.v.NATS.Resources,
		Args: []string{"--config=" + natsConfigDir + "/nats.conf", "--name=$(POD_NAME)"},
		Env:  append([]corev1.EnvVar{fieldEnv("POD_NAME", "metadata.name")}, b.natsKeys()...),
		Ports: []corev1.ContainerPort{
			{Name: "client", ContainerPort: 4222}, {Name: "routes", ContainerPort: 6222}, {Name: "monitor", ContainerPort: 8222},
		},
		VolumeMounts: []corev1.VolumeMount{
			{Name: "config", MountPath: natsConfigDir, ReadOnly: true}, tls, {Name: "data", MountPath: natsDataDir},
		},
		// A server that reads a large store back is busy, not dead. One that has done so is
		// found out soon: devices that reach nobody wait longer each time.
		StartupProbe:   often(patient(probe("/healthz", "monitor"), 900)),
		LivenessProbe:  patient(probe("/healthz?js-enabled-only=true", "monitor"), 6),
		ReadinessProbe: probe("/healthz?js-server-only=true", "monitor"),
	}
}

// reloader has the server read a certificate that is new. What else changes makes a
// new pod.
func (b builder) reloader(tls corev1.VolumeMount) corev1.Container {
	return corev1.Container{
		Name: "reload", Image: b.image("fleet-operator", b.v.Image.Digests.Operator), Resources: resources("5m", "16Mi"),
		Command: []string{"fleet-reload"}, Args: []string{tlsDir + "/tls.crt", tlsDir + "/tls.key", tlsDir + "/ca.crt"},
		VolumeMounts: []corev1.VolumeMount{tls},
	}
}

// often tries every second.
func often(p *corev1.Probe) *corev1.Probe {
	p.PeriodSeconds = 1
	return p
}

// exporter translates the server's monitoring for Prometheus, by the name that the pod
// gives it: its id is another after each start.
func (b builder) exporter() []corev1.Container {
	if b.v.NATS.Exporter == "" {
		return nil
	}
	return []corev1.Container{{
		Name: "exporter", Image: b.v.NATS.Exporter, Resources: resources("5m", "32Mi"),
		Args:  []string{fmt.Sprintf("-port=%d", exporterPort), "-prefix=nats", "-use_internal_server_name", "-varz", "-routez", "-jsz=streams", "http://127.0.0.1:8222"},
		Ports: []corev1.ContainerPort{{Name: "metrics", ContainerPort: exporterPort}},
	}}
}

// patient fails when so many tries in a row did, every 10 s.
func patient(p *corev1.Probe, times int32) *corev1.Probe {
	p.FailureThreshold = times
	return p
}

// natsKeys are the variables of the broker's configuration: public keys, so that
// the broker has no seed, and the password of people.
func (b builder) natsKeys() (env []corev1.EnvVar) {
	for _, v := range []struct{ name, entry string }{
		{"FLEET_OPERATOR", "operator.pub"}, {"FLEET_STREAMS", "streams.pub"}, {"FLEET_CALLOUT", "callout.pub"},
		{"FLEET_ISSUER", "issuer.pub"}, {"FLEET_XKEY", "xkey.pub"}, {"FLEET_ADMIN_PASSWORD", "admin.password"},
	} {
		env = append(env, corev1.EnvVar{Name: v.name, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: b.keysSecret()}, Key: v.entry,
		}}})
	}
	return env
}

// peer is how the server with a number is called by the others.
func (b builder) peer(number int) string {
	return fmt.Sprintf("%s-%d.%s.%s.svc", b.name("nats"), number, b.name(headless), b.r.Namespace)
}
