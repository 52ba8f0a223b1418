package install

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestFile has the pod of `helm test`, which is of the chart alone.
const TestFile = "test.yaml"

// test is a pod that ends well when everything works. It may do nothing in the
// cluster, and Argo CD leaves it out.
func (b builder) test() []any {
	const component = "test"
	authority, authorityMount := b.authority()
	args := []string{"check", fmt.Sprintf("--operator=http://%s:%d/metrics", b.serviceHost("operator"), metricsPort)}
	if b.v.Callout.Enabled {
		args = append(args, fmt.Sprintf("--callout=http://%s:%d/metrics", b.serviceHost("callout"), metricsPort))
	}
	if b.ownBroker() {
		args = append(args, "--broker="+b.natsHost()+":4222", "--ca-file="+tlsDir+"/ca.crt")
	}
	template := b.pod(component, corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: new(false),
		Volumes: []corev1.Volume{authority},
		Containers: []corev1.Container{{
			Name: "fleet-check", Image: b.image("fleet-operator", b.v.Image.Digests.Operator), Resources: resources("10m", "16Mi"),
			Args: args, VolumeMounts: []corev1.VolumeMount{authorityMount},
		}},
	})
	pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: b.meta(component), Spec: template.Spec}
	// One that failed stays, for its log to be read.
	pod.Annotations = map[string]string{"helm.sh/hook": "test", "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded"}
	return []any{pod}
}
