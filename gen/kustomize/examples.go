package kustomize

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/gen/tree"
)

// example is a file to start from.
type example struct {
	path, comment string
	object        any
}

// examples are resources of the fleet, and ways by which devices reach the broker.
func examples() (tree.Tree, error) {
	files := tree.Tree{}
	for _, e := range append(workloads(), exposure()...) {
		text, err := render(e.comment, e.object)
		if err != nil {
			return nil, fmt.Errorf("example %s: %w", e.path, err)
		}
		files[Dir+"/examples/"+e.path] = []byte(strings.Replace(string(text), "gen/install", "gen/kustomize", 1))
	}
	return files, nil
}

func workloads() []example {
	return []example{
		{"fleet/kustomization.yaml", "What devices shall run.", resources("hello.yaml", "sensor.yaml")},
		{"fleet/hello.yaml", "A web server on each device that has the label group=hello.", workload("hello", score.Service{
			Name: "web", Image: "registry.example/hello:1", Ports: []score.Port{{ContainerPort: 8080, HostPort: 8080}},
		})},
		{"fleet/sensor.yaml", "A program with a configuration, a volume, limits and a check of its health.", workload("sensor", score.Service{
			Name: "reader", Image: "registry.example/sensor:1",
			Env:         []score.EnvVar{{Name: "INTERVAL", Value: "30s"}},
			Volumes:     []score.Volume{{ContainerPath: "/data", Volume: "sensor-data"}},
			Resources:   &score.Resources{Memory: "64Mi"},
			HealthCheck: &score.HealthCheck{Command: []string{"/reader", "--check"}},
		})},
	}
}

func workload(name string, services ...score.Service) *v1alpha1.Deployment {
	return &v1alpha1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: v1alpha1.DeploymentSpec{
			TargetSelector: metav1.LabelSelector{MatchLabels: map[string]string{"group": name}},
			Score:          score.Score{PodmanV0: &score.PodmanV0{Services: services}},
		},
	}
}

// fields of an object whose type is in no library here.
type fields = map[string]any

// bySNI is what a way needs that looks at the name in the TLS handshake: NATS begins
// a connection in clear, unless the client is told to begin with the handshake.
const bySNI = " Devices have to begin with the handshake: nats.devicesURL is tls-first:// and the host."

// exposure are ways to the broker. Each needs the name that devices use among
// nats.tls.hosts.
func exposure() []example {
	broker := func() []any { return []any{fields{"name": "harmony-fleet-nats", "port": 4222}} }
	gateway := func() []any { return []any{fields{"name": "edge", "sectionName": "nats"}} }
	meta := fields{"name": "harmony-fleet-nats", "namespace": Release().Namespace}
	return []example{
		{"exposure/load-balancer.yaml", "A patch of the Service: the cluster's load balancer passes connections on.", service(corev1.ServiceTypeLoadBalancer)},
		{"exposure/node-port.yaml", "A patch of the Service: a port on every node.", service(corev1.ServiceTypeNodePort)},
		{"exposure/gateway-tcproute.yaml", "Gateway API, whose experimental channel has TCPRoute: a listener of its own for the broker, on the Gateway edge.", fields{
			"apiVersion": "gateway.networking.k8s.io/v1alpha2", "kind": "TCPRoute", "metadata": meta,
			"spec": fields{"parentRefs": gateway(), "rules": []any{fields{"backendRefs": broker()}}},
		}},
		{"exposure/gateway-tlsroute.yaml", "Gateway API 1.5: a listener that others share, by the name of the host." + bySNI, fields{
			"apiVersion": "gateway.networking.k8s.io/v1", "kind": "TLSRoute", "metadata": meta,
			"spec": fields{"hostnames": []any{"nats.example.com"}, "parentRefs": gateway(), "rules": []any{fields{"backendRefs": broker()}}},
		}},
		{"exposure/openshift-route.yaml", "OpenShift: the router passes TLS through, by the name of the host." + bySNI, fields{
			"apiVersion": "route.openshift.io/v1", "kind": "Route", "metadata": meta,
			"spec": fields{
				"host": "nats.example.com", "port": fields{"targetPort": "client"}, "tls": fields{"termination": "passthrough"},
				"to": fields{"kind": "Service", "name": "harmony-fleet-nats"},
			},
		}},
	}
}

func service(kind corev1.ServiceType) *corev1.Service {
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Name: "harmony-fleet-nats", Namespace: Release().Namespace},
		Spec:       corev1.ServiceSpec{Type: kind},
	}
}
