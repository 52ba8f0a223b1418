package install

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nationtech/harmony-fleet/operator/access"
)

// people are the roles to bind people's groups to. Their names are the same in
// every cluster.
func (b builder) people() (objects []any) {
	for _, role := range access.ClusterRoles() {
		labels := b.labels("people")
		maps.Copy(labels, role.Labels)
		role.Labels = labels
		objects = append(objects, role)
	}
	return objects
}

// networkPolicies admit to each pod what it serves to others. What the kubelet
// asks for comes from the pod's node and is always admitted.
func (b builder) networkPolicies() (objects []any) {
	if !b.v.NetworkPolicy.Enabled {
		return nil
	}
	if b.ownBroker() {
		peers := networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: b.selector("nats")}}
		ingress := []networkingv1.NetworkPolicyIngressRule{
			{Ports: ports("client")}, {Ports: ports("routes"), From: []networkingv1.NetworkPolicyPeer{peers}},
		}
		if b.v.NATS.Exporter != "" {
			ingress = append(ingress, networkingv1.NetworkPolicyIngressRule{Ports: ports("metrics")})
		}
		objects = append(objects, b.policy("nats", ingress...))
	}
	if b.v.NACK.Enabled {
		objects = append(objects, b.policy("nack"))
	}
	objects = append(objects, b.policy("operator", networkingv1.NetworkPolicyIngressRule{Ports: ports("metrics")}))
	if b.v.Callout.Enabled {
		objects = append(objects, b.policy("callout", networkingv1.NetworkPolicyIngressRule{Ports: ports("metrics")}))
	}
	return objects
}

func (b builder) policy(component string, ingress ...networkingv1.NetworkPolicyIngressRule) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"}, ObjectMeta: b.meta(component),
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: b.selector(component)},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}, Ingress: ingress,
		},
	}
}

func ports(name string) []networkingv1.NetworkPolicyPort {
	port, tcp := intstr.FromString(name), corev1.ProtocolTCP
	return []networkingv1.NetworkPolicyPort{{Port: &port, Protocol: &tcp}}
}
