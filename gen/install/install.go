// Package install describes an installation: plain functions from values to the
// objects of Kubernetes, one for each part. They are total, so that any values
// build, and they know nothing of templates, files or clusters: the chart, the
// Kustomize base and tests all call the same ones.
package install

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nationtech/harmony-fleet/gen/values"
	"github.com/nationtech/harmony-fleet/release/version"
)

// Version of the chart and of the programs that it installs.
const Version = version.Number

// Product is the name of the chart, and of what all objects are part of.
const Product = "harmony-fleet"

// CRDsFile has the fleet's custom resource definitions, DowngradesFile what keeps
// older ones from taking their place.
const (
	CRDsFile       = "crds.yaml"
	DowngradesFile = "downgrades.yaml"
)

// Files that hold a configuration, whose checksum its pods carry.
const (
	NATSConfigFile     = "nats-config.yaml"
	OperatorConfigFile = "operator-config.yaml"
	CalloutConfigFile  = "callout-config.yaml"
)

// Release is which installation of the values it is.
type Release struct {
	// Name begins the names of all objects that are not of the whole cluster.
	Name string
	// Namespace of the objects.
	Namespace string
	// Version of the programs, and the tag of their images where the values name none.
	Version string
	// Sums stand for the checksums of the files that hold a configuration; without,
	// they are computed.
	Sums map[string]string
}

// Build returns the objects of each file, in the order in which to create them.
func Build(v values.Values, r Release) map[string][]any {
	b := builder{v, r}
	return map[string][]any{
		CRDsFile:           b.crds(),
		DowngradesFile:     b.downgrades(),
		"keys.yaml":        b.keyMaker(),
		NATSConfigFile:     b.natsConfig(),
		"nats.yaml":        b.nats(),
		"nack.yaml":        b.nack(),
		"streams.yaml":     b.streams(),
		OperatorConfigFile: b.operatorConfig(),
		"operator.yaml":    b.operator(),
		CalloutConfigFile:  b.calloutConfig(),
		"callout.yaml":     b.callout(),
		"people.yaml":      b.people(),
		"network.yaml":     b.networkPolicies(),
		"monitoring.yaml":  b.monitoring(),
		TestFile:           b.test(),
	}
}

// builder is what each part is built from.
type builder struct {
	v values.Values
	r Release
}

// name of an object; no suffix is longer than 10 characters, so that with the
// longest name of a release it is a name of a Service.
func (b builder) name(suffix string) string { return b.r.Name + "-" + suffix }

func (b builder) meta(component string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: b.name(component), Namespace: b.r.Namespace, Labels: b.labels(component)}
}

// shared is meta of an object that is in no namespace.
func (b builder) shared(component string) metav1.ObjectMeta {
	m := b.meta(component)
	m.Namespace = ""
	return m
}

// selector has the labels that never change.
func (b builder) selector(component string) map[string]string {
	return map[string]string{
		"app.kubernetes.io/name":      Product,
		"app.kubernetes.io/instance":  b.r.Name,
		"app.kubernetes.io/component": component,
	}
}

func (b builder) labels(component string) map[string]string {
	l := b.podLabels(component)
	l["app.kubernetes.io/version"] = b.r.Version
	return l
}

// podLabels name no version: a new chart alone is no reason to make pods anew.
func (b builder) podLabels(component string) map[string]string {
	l := b.selector(component)
	l["app.kubernetes.io/part-of"] = Product
	return l
}

// image of one of the fleet's own programs.
func (b builder) image(program string, digest values.Digest) string {
	image := b.v.Image.Registry + "/" + program
	if digest != "" {
		return image + "@" + string(digest)
	}
	if b.v.Image.Tag != "" {
		return image + ":" + b.v.Image.Tag
	}
	return image + ":" + b.r.Version
}

// checksum changes when the configuration of a file does, so that pods are made
// anew.
func (b builder) checksum(file string, data map[string]string) map[string]string {
	sum, planted := b.r.Sums[file]
	if !planted {
		encoded, err := json.Marshal(data)
		if err != nil {
			panic(fmt.Sprintf("encoding the configuration of %s: %v", file, err)) // texts alone
		}
		digest := sha256.Sum256(encoded)
		sum = hex.EncodeToString(digest[:])
	}
	return map[string]string{"checksum/config": sum}
}

// pod completes a pod with what all have: where it runs, and the restricted pod
// security standard.
func (b builder) pod(component string, spec corev1.PodSpec) corev1.PodTemplateSpec {
	spec.ImagePullSecrets = b.v.Image.PullSecrets
	spec.NodeSelector = b.v.Scheduling.NodeSelector
	spec.Tolerations = b.v.Scheduling.Tolerations
	spec.Affinity = b.v.Scheduling.Affinity
	spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
		LabelSelector: &metav1.LabelSelector{MatchLabels: b.selector(component)},
	}}
	spec.EnableServiceLinks = new(false)
	if spec.SecurityContext == nil {
		spec.SecurityContext = &corev1.PodSecurityContext{}
	}
	spec.SecurityContext.RunAsNonRoot = new(true)
	spec.SecurityContext.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
	for i := range spec.Containers {
		c := &spec.Containers[i]
		c.ImagePullPolicy = b.v.Image.PullPolicy
		c.SecurityContext = &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false),
			ReadOnlyRootFilesystem:   new(true),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		}
	}
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: b.podLabels(component)}, Spec: spec}
}

// user is as whom images run that name no user of their own.
func (b builder) user() *corev1.PodSecurityContext {
	id := b.v.PodSecurity.RunAsUser
	return &corev1.PodSecurityContext{RunAsUser: id, RunAsGroup: id, FSGroup: id}
}

func (b builder) deployment(component string, replicas int32, pod corev1.PodTemplateSpec) *appsv1.Deployment {
	return &appsv1.Deployment{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: b.meta(component),
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Template: pod,
			Selector: &metav1.LabelSelector{MatchLabels: b.selector(component)},
		},
	}
}

func (b builder) account(component string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: b.meta(component)}
}

func (b builder) configMap(component string, data map[string]string) *corev1.ConfigMap {
	m := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: b.meta(component), Data: data}
	m.Labels = b.podLabels(component) // it is part of a checksum
	return m
}

// role lets the account of a component do something in the namespace.
func (b builder) role(component string, rules []rbacv1.PolicyRule) []any {
	return []any{
		&rbacv1.Role{TypeMeta: rbacType("Role"), ObjectMeta: b.meta(component), Rules: rules},
		&rbacv1.RoleBinding{
			TypeMeta: rbacType("RoleBinding"), ObjectMeta: b.meta(component), Subjects: b.subjects(component),
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: b.name(component)},
		},
	}
}

// clusterRole lets it do something in the whole cluster.
func (b builder) clusterRole(component string, rules []rbacv1.PolicyRule) []any {
	return []any{
		&rbacv1.ClusterRole{TypeMeta: rbacType("ClusterRole"), ObjectMeta: b.shared(component), Rules: rules},
		&rbacv1.ClusterRoleBinding{
			TypeMeta: rbacType("ClusterRoleBinding"), ObjectMeta: b.shared(component), Subjects: b.subjects(component),
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: b.name(component)},
		},
	}
}

func rbacType(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: kind}
}

func (b builder) subjects(component string) []rbacv1.Subject {
	return []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: b.name(component), Namespace: b.r.Namespace}}
}

// budget lets one pod at a time be evicted; a single one could never be.
func (b builder) budget(component string, replicas int32) []any {
	if replicas <= 1 {
		return nil
	}
	one, always := intstr.FromInt32(1), policyv1.AlwaysAllow
	return []any{&policyv1.PodDisruptionBudget{
		TypeMeta:   metav1.TypeMeta{APIVersion: "policy/v1", Kind: "PodDisruptionBudget"},
		ObjectMeta: b.meta(component),
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: &one, UnhealthyPodEvictionPolicy: &always,
			Selector: &metav1.LabelSelector{MatchLabels: b.selector(component)},
		},
	}}
}

func probe(path, port string) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString(port)}}}
}
