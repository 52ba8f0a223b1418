package install

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// certificate is cert-manager's Certificate, as far as it is used here. Its own
// module would bring the types of the whole Gateway API.
type certificate struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              certificateSpec `json:"spec"`
}

type certificateSpec struct {
	SecretName string        `json:"secretName"`
	DNSNames   []string      `json:"dnsNames"`
	Usages     []string      `json:"usages"`
	PrivateKey privateKey    `json:"privateKey"`
	IssuerRef  certificateBy `json:"issuerRef"`
}

type privateKey struct {
	Algorithm      string `json:"algorithm"`
	RotationPolicy string `json:"rotationPolicy"`
}

type certificateBy struct {
	Group string `json:"group"`
	Kind  string `json:"kind"`
	Name  string `json:"name"`
}

// certificate has cert-manager make the broker's. The servers are each other's
// clients too.
func (b builder) certificate() *certificate {
	return &certificate{
		TypeMeta: metav1.TypeMeta{APIVersion: "cert-manager.io/v1", Kind: "Certificate"}, ObjectMeta: b.meta("nats"),
		Spec: certificateSpec{
			SecretName: b.tlsSecret(),
			DNSNames:   b.natsHosts(),
			Usages:     []string{"server auth", "client auth"},
			PrivateKey: privateKey{Algorithm: "ECDSA", RotationPolicy: "Always"},
			IssuerRef:  certificateBy{Group: "cert-manager.io", Kind: b.v.NATS.TLS.Issuer.Kind, Name: b.v.NATS.TLS.Issuer.Name},
		},
	}
}
