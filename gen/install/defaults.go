package install

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/gen/values"
)

// unprivileged is a user and a group that nobody else on a node is.
const unprivileged = 65532

// Defaults are the values of an installation that chose nothing.
func Defaults() values.Values {
	operator, callout := config.OperatorDefaults(), config.CalloutDefaults()
	return values.Values{
		// The release pins where its images are.
		Image: values.Image{Registry: "registry.example/harmony-fleet", PullPolicy: corev1.PullIfNotPresent},
		NATS: values.NATS{
			Image: "nats:2.15.2", Replicas: 1,
			Resources: resources("250m", "512Mi"),
			Storage:   values.Storage{Size: resource.MustParse("10Gi")},
			TLS:       values.TLS{Source: tlsGenerated, Issuer: values.Issuer{Kind: "Issuer"}},
			Service:   values.Service{Type: corev1.ServiceTypeClusterIP},
		},
		NACK: values.NACK{Enabled: true, Image: "natsio/jetstream-controller:0.22.4"},
		Operator: values.Operator{
			Replicas: 1, Resources: resources("100m", "256Mi"),
			Config: values.OperatorConfig{
				OpenBao: operator.OpenBao, Roster: callout.Roster, Signing: values.Signing{Validity: operator.Signing.Validity}, Status: operator.Status,
				DeleteTimeout: operator.DeleteTimeout, AuditInterval: operator.AuditInterval, LogLevel: values.LogLevel(operator.LogLevel),
			},
		},
		Callout: values.Callout{
			Enabled: true, Replicas: 2, Resources: resources("100m", "64Mi"),
			Config: values.CalloutConfig{
				OIDC: callout.OIDC, OpenBao: callout.OpenBao, Roster: callout.Roster, SessionMax: callout.SessionMax, Workers: callout.Workers,
				LogLevel: values.LogLevel(callout.LogLevel),
			},
		},
		CRDs:          values.CRDs{Enabled: true},
		PodSecurity:   values.PodSecurity{RunAsUser: new(int64(unprivileged))},
		NetworkPolicy: values.NetworkPolicy{Enabled: true},
	}
}

// resources asks for what a small fleet needs. Nothing is limited: a limit of
// memory that a fleet outgrows is an outage.
func resources(cpu, memory string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
	}}
}
