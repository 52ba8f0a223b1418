// Package values is what an installation can choose, as types: the values of the
// chart, whose files, schema and documentation follow from the fields and comments
// here. It holds no defaults and builds nothing, so that the schema's parser can
// read it by itself.
package values

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Values of an installation.
type Values struct {
	// Images of the fleet's own programs.
	Image Image `json:"image"`
	// The keys of the installation.
	Keys Keys `json:"keys"`
	// The broker.
	NATS NATS `json:"nats"`
	// The controller that makes the broker's streams.
	NACK NACK `json:"nack"`
	// The operator.
	Operator Operator `json:"operator"`
	// The auth callout, which decides who may connect to the broker.
	Callout Callout `json:"callout"`
	// The fleet's own custom resource definitions.
	CRDs CRDs `json:"crds"`
	// Whose certificates operator and callout trust.
	Trust Trust `json:"trust"`
	// Where all pods run.
	Scheduling Scheduling `json:"scheduling"`
	// As whom pods run.
	PodSecurity PodSecurity `json:"podSecurity"`
	// Who may connect to the pods.
	NetworkPolicy NetworkPolicy `json:"networkPolicy"`
	// What Prometheus and Grafana see. The first needs the Prometheus operator.
	Monitoring Monitoring `json:"monitoring"`
}

// Image is where the images of the fleet's own programs are.
type Image struct {
	// Registry and path, without the name of an image and without a slash at the end.
	// +kubebuilder:validation:Pattern=`^[a-z0-9][a-z0-9._:/-]*[a-z0-9]$`
	Registry string `json:"registry"`
	// Tag of the images; empty means the version of the chart, and no other may stand beside a digest.
	// +kubebuilder:validation:Pattern=`^([A-Za-z0-9_][A-Za-z0-9._-]{0,127})?$`
	Tag string `json:"tag,omitempty"`
	// Digests that count instead of the tag.
	Digests Digests `json:"digests"`
	// When the kubelet pulls images, those of the broker and of NACK too.
	// +kubebuilder:validation:Enum=Always;IfNotPresent;Never
	PullPolicy corev1.PullPolicy `json:"pullPolicy"`
	// Secrets to pull images with, those of the broker and of NACK too: a list of {name: …}.
	PullSecrets []corev1.LocalObjectReference `json:"pullSecrets,omitempty"`
}

// Digests of images.
type Digests struct {
	// Digest of fleet-operator, such as "sha256:…".
	Operator Digest `json:"operator,omitempty"`
	// Digest of fleet-callout.
	Callout Digest `json:"callout,omitempty"`
}

// Digest of an image; "" for none.
// +kubebuilder:validation:Pattern=`^(sha256:[a-f0-9]{64})?$`
type Digest string

// Keys are the seeds and public parts of the installation's nkeys, in one Secret.
type Keys struct {
	// Secret that has them already: NAME.seed and NAME.pub for operator, streams,
	// callout, issuer, xkey and signing, and admin.password; empty means <release>-keys,
	// which the installation makes.
	ExistingSecret string `json:"existingSecret,omitempty"`
}

// NATS is the broker: one of the installation's own, or another.
type NATS struct {
	// URL of another broker, such as "tls://nats.example.com:4222"; it needs the
	// accounts of docs/broker-accounts.conf, and its authority in ca.crt of tls.secret.
	// Empty means that the installation has a broker of its own.
	URL string `json:"url,omitempty"`
	// URL at which devices reach the broker, such as "tls://nats.example.com:4222": what
	// "kubectl fleet enroll" tells them. It begins with "tls-first://" where a Route or TLSRoute
	// passes connections on by the host's name. A certificate made here has to name the host, in
	// tls.hosts.
	// +kubebuilder:validation:Pattern=`^(tls(-first)?://.+)?$`
	DevicesURL string `json:"devicesURL,omitempty"`
	// Image of nats-server.
	// +kubebuilder:validation:MinLength=1
	Image string `json:"image"`
	// Image of prometheus-nats-exporter, such as "natsio/prometheus-nats-exporter:0.17.3", to run
	// beside each server; empty means that the servers' own metrics are not exported.
	Exporter string `json:"exporter,omitempty"`
	// Servers: 1, or 3 that hold every stream thrice. Choose when you install: three take
	// over nothing of what one has stored.
	// +kubebuilder:validation:Enum=1;3
	Replicas int32 `json:"replicas"`
	// Compute resources of each server.
	Resources corev1.ResourceRequirements `json:"resources"`
	// The volume of each server.
	Storage Storage `json:"storage"`
	// The certificate of the servers.
	TLS TLS `json:"tls"`
	// How devices reach the servers; kustomize/examples/exposure has Gateway API and OpenShift Routes.
	Service Service `json:"service"`
}

// Storage is a persistent volume.
type Storage struct {
	// Size of the volume, such as "12Gi"; the streams need up to 8Gi for 100,000 devices.
	Size resource.Quantity `json:"size"`
	// Storage class; null means the cluster's default.
	// +nullable
	// +optional
	ClassName *string `json:"className"`
}

// TLS is the broker's certificate. It speaks nothing else.
type TLS struct {
	// Where the certificate comes from: "generated", and renewed, by an authority among the keys;
	// "certManager", by the issuer below; or "existing", in the secret below.
	// +kubebuilder:validation:Enum=generated;certManager;existing
	Source string `json:"source"`
	// Secret with tls.crt, tls.key and ca.crt; empty means <release>-nats-tls.
	Secret string `json:"secret,omitempty"`
	// Issuer of cert-manager.
	Issuer Issuer `json:"issuer"`
	// Further names or addresses of the broker for a certificate that is made here: those that devices use.
	Hosts []Host `json:"hosts,omitempty"`
}

// Host is a name or an address.
// +kubebuilder:validation:Pattern=`^[A-Za-z0-9*][A-Za-z0-9.:-]*$`
type Host string

// Issuer of certificates.
type Issuer struct {
	// Name of the issuer.
	Name string `json:"name,omitempty"`
	// Issuer, which is of one namespace, or ClusterIssuer.
	// +kubebuilder:validation:Enum=Issuer;ClusterIssuer
	Kind string `json:"kind"`
}

// Service is how clients outside the cluster reach the broker.
type Service struct {
	// ClusterIP, NodePort or LoadBalancer.
	// +kubebuilder:validation:Enum=ClusterIP;NodePort;LoadBalancer
	Type corev1.ServiceType `json:"type"`
	// Annotations, such as those that load balancers read.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// NACK makes the broker's streams from Stream resources.
type NACK struct {
	// Whether the installation has a NACK of its own. Without, another has to watch the namespace.
	Enabled bool `json:"enabled"`
	// Image of jetstream-controller.
	// +kubebuilder:validation:MinLength=1
	Image string `json:"image"`
}

// Operator is the program that decides what devices run.
type Operator struct {
	// Replicas, of which one works and the other waits for it to fail.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2
	Replicas int32 `json:"replicas"`
	// Compute resources of each replica.
	Resources corev1.ResourceRequirements `json:"resources"`
	// The configuration of fleet-operator, but for what the installation decides itself.
	Config OperatorConfig `json:"config"`
}

// Callout is the program that decides who may connect.
type Callout struct {
	// Whether the broker asks it. Without, only the users of the broker's configuration may connect, and devices are none.
	Enabled bool `json:"enabled"`
	// Replicas, all of which work.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Replicas int32 `json:"replicas"`
	// Compute resources of each replica.
	Resources corev1.ResourceRequirements `json:"resources"`
	// The configuration of fleet-callout, but for what the installation decides itself.
	Config CalloutConfig `json:"config"`
}

// CRDs are the fleet's own custom resource definitions.
type CRDs struct {
	// Whether the installation has them. They stay when it is removed, and with them every resource.
	Enabled bool `json:"enabled"`
}

// Trust is whose certificates count at the OpenID provider and at OpenBao.
type Trust struct {
	// ConfigMap whose ca.crt has the authorities to trust; empty means those of the images.
	ConfigMap string `json:"configMap,omitempty"`
}

// Scheduling is where pods may run.
type Scheduling struct {
	// Labels that a node must have.
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// Taints that pods bear.
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`
	// Affinity to nodes and pods.
	Affinity *corev1.Affinity `json:"affinity,omitempty"`
}

// PodSecurity is as whom pods run. All are fit for the restricted pod security standard.
type PodSecurity struct {
	// User and group of the broker's and NACK's pods, whose images name no user; null
	// where the cluster chooses one, as OpenShift does.
	// +nullable
	// +optional
	RunAsUser *int64 `json:"runAsUser"`
}

// NetworkPolicy is who may connect to the pods.
type NetworkPolicy struct {
	// Whether only the ports that are meant for others can be reached. Egress is not restricted.
	Enabled bool `json:"enabled"`
}

// Monitoring is what Prometheus and Grafana see.
type Monitoring struct {
	// ServiceMonitors of operator, callout and, with nats.exporter, the broker; and alerts, as a
	// PrometheusRule.
	Prometheus bool `json:"prometheus"`
	// A dashboard, as a ConfigMap with the label grafana_dashboard.
	Dashboard bool `json:"dashboard"`
}
