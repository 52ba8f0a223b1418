package install

import (
	"fmt"
	"time"

	jetstream "github.com/nats-io/nack/pkg/jetstream/apis/jetstream/v1beta2"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

const jetstreamGroup = "jetstream.nats.io"

// nack is the controller that makes the streams.
func (b builder) nack() []any {
	if !b.v.NACK.Enabled {
		return nil
	}
	const component, cache = "nack", "/tmp"
	keys, keysMount := b.seeds("streams.seed")
	authority, authorityMount := b.authority()
	pod := b.pod(component, corev1.PodSpec{
		ServiceAccountName: b.name(component),
		SecurityContext:    b.user(),
		Volumes:            []corev1.Volume{keys, authority, {Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		Containers: []corev1.Container{{
			Name: "jetstream-controller", Image: b.v.NACK.Image, Resources: resources("10m", "64Mi"),
			Args: []string{
				"--control-loop", "--namespace=$(NAMESPACE)", "-s=" + b.natsURL(),
				"--nkey=" + keysDir + "/streams.seed", "--tlsca=" + tlsDir + "/ca.crt", "--cache-dir=" + cache,
			},
			Env:            []corev1.EnvVar{namespaceEnv()},
			Ports:          []corev1.ContainerPort{{Name: "probes", ContainerPort: 8081}},
			VolumeMounts:   []corev1.VolumeMount{keysMount, authorityMount, {Name: "cache", MountPath: cache}},
			LivenessProbe:  probe("/healthz", "probes"),
			ReadinessProbe: probe("/readyz", "probes"),
		}},
	})
	d := b.deployment(component, 1, pod)
	// It has no leader election: two would undo each other's work.
	d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
	objects := append([]any{b.account(component)}, b.role(component, nackRules())...)
	return append(objects, d)
}

// nackRules is what the controller's loop needs for what it watches; it reads
// Secrets for Accounts alone, of which the fleet has none.
func nackRules() []rbacv1.PolicyRule {
	var kinds, status, finalizers []string
	for _, kind := range []string{"streams", "consumers", "keyvalues", "objectstores", "accounts"} {
		kinds, status, finalizers = append(kinds, kind), append(status, kind+"/status"), append(finalizers, kind+"/finalizers")
	}
	return []rbacv1.PolicyRule{
		{APIGroups: []string{jetstreamGroup}, Resources: kinds, Verbs: []string{"get", "list", "watch", "update"}},
		{APIGroups: []string{jetstreamGroup}, Resources: status, Verbs: []string{"get", "update"}},
		{APIGroups: []string{jetstreamGroup}, Resources: finalizers, Verbs: []string{"update"}},
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}},
	}
}

// streams are those behind the buckets.
func (b builder) streams() (objects []any) {
	if !b.v.NACK.Enabled {
		return nil
	}
	for _, bucket := range wire.Buckets() {
		objects = append(objects, b.stream(bucket))
	}
	return objects
}

// stream is wire.Bucket.Settings in NACK's words. It has no status, which the
// controller writes.
type stream struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              jetstream.StreamSpec `json:"spec"`
}

func (b builder) stream(bucket wire.Bucket) *stream {
	s := &stream{
		TypeMeta:   metav1.TypeMeta{APIVersion: jetstreamGroup + "/v1beta2", Kind: "Stream"},
		ObjectMeta: b.meta("streams"),
		Spec: jetstream.StreamSpec{
			Name: bucket.Stream(), Description: bucket.Description,
			MaxAge: "0s", // left out, it would be a year
		},
	}
	s.Name = b.name(bucket.Name)
	// What the broker holds stays when the installation is removed. Besides, NACK has a
	// finalizer on it, and would be gone before it could take that off.
	s.Annotations = map[string]string{
		"helm.sh/resource-policy":         "keep",
		"argocd.argoproj.io/sync-options": "Prune=false,Delete=false",
	}
	s.Spec.PreventDelete = true // the resource gone must not mean the data gone
	for _, setting := range bucket.Settings() {
		set(&s.Spec, setting)
	}
	s.Spec.Replicas = int(b.v.NATS.Replicas)
	if b.v.NATS.Replicas > 1 {
		s.Spec.PersistMode = "" // the server has none for a stream that others hold too
	}
	return s
}

// set writes one setting. It panics at one that is new: a generator must not leave
// it out.
func set(spec *jetstream.StreamSpec, s wire.Setting) {
	switch s.Name {
	case "subjects":
		spec.Subjects = s.Value.([]string)
	case "max_msgs_per_subject":
		spec.MaxMsgsPerSubject = s.Value.(int)
	case "retention":
		spec.Retention = s.Value.(string)
	case "discard":
		spec.Discard = s.Value.(string)
	case "max_msgs":
		spec.MaxMsgs = s.Value.(int)
	case "max_bytes":
		spec.MaxBytes = int(s.Value.(int64))
	case "max_msg_size":
		spec.MaxMsgSize = int(s.Value.(int32))
	case "max_consumers":
		spec.MaxConsumers = s.Value.(int)
	case "duplicate_window":
		spec.DuplicateWindow = s.Value.(time.Duration).String()
	case "max_age":
		spec.MaxAge = s.Value.(time.Duration).String()
	case "deny_delete":
		spec.DenyDelete = s.Value.(bool)
	case "allow_direct":
		spec.AllowDirect = s.Value.(bool)
	case "allow_rollup_hdrs":
		spec.AllowRollup = s.Value.(bool)
	case "allow_atomic":
		spec.AllowAtomicPublish = s.Value.(bool)
	case "allow_msg_ttl":
		spec.AllowMsgTTL = s.Value.(bool)
	case "storage":
		spec.Storage = s.Value.(string)
	case "persist_mode":
		spec.PersistMode = s.Value.(string)
	case "republish":
		republish := s.Value.(map[string]string)
		spec.RePublish = &jetstream.RePublish{Source: republish["src"], Destination: republish["dest"]}
	case "num_replicas": // the installation's choice
	default:
		panic(fmt.Sprintf("the setting %s of a bucket has no word in NACK's Stream here", s.Name))
	}
}
