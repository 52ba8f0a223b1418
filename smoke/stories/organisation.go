package stories

import (
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/operator/keys"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
	"github.com/nationtech/harmony-fleet/smoke/openbao"
	"github.com/nationtech/harmony-fleet/smoke/pki"
)

// organisation is what there is around an installation, on this host, where pods reach
// it: an authority for certificates, an OpenID provider, and OpenBao.
type organisation struct {
	*installation
	node      string // its address
	here      string // this host's, as the node sees it
	authority *pki.Authority
	tls       *tls.Config
	provider  *oidc.Provider
	bao       *openbao.Fleet
	front     *http.Server // TLS for OpenBao
	vault     string       // the URL of front
}

// newOrganisation has a provider and no OpenBao yet. Whatever happens, stop it.
func newOrganisation(ctx context.Context, i *installation) (*organisation, error) {
	o := &organisation{installation: i}
	var err error
	if o.node, err = i.node(ctx); err != nil {
		return o, err
	}
	if o.here, err = addressTowards(o.node); err != nil {
		return o, err
	}
	if o.authority, err = pki.NewAuthority(); err != nil {
		return o, err
	}
	pair, err := o.authority.Issue(pkix.Name{CommonName: "organisation"}, o.here)
	if err != nil {
		return o, err
	}
	certificate, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return o, fmt.Errorf("reading a certificate: %w", err)
	}
	o.tls = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	o.provider, err = oidc.Start(ctx, oidc.Options{Address: o.here, TLS: o.tls})
	return o, err
}

func (o *organisation) stop() error {
	var err error
	if o.front != nil {
		err = o.front.Close()
	}
	if o.bao != nil {
		o.bao.Stop()
	}
	if o.provider != nil {
		o.provider.Stop()
	}
	return err
}

// addressTowards is this host's, as the other one sees it. Nothing is sent.
func addressTowards(other string) (string, error) {
	conn, err := net.Dial("udp", net.JoinHostPort(other, "1"))
	if err != nil {
		return "", fmt.Errorf("looking for this host's address towards %s: %w", other, err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String(), nil
}

// startOpenBao has it keep the policies, and know programs by the tokens of their
// service accounts, as this cluster signs them, and devices by those of the provider.
func (o *organisation) startOpenBao(ctx context.Context) error {
	server, err := openbao.Start(ctx, openbao.Options{Dir: filepath.Join(o.dir, "openbao"), Progress: o.Progress()})
	if err != nil {
		return err
	}
	issuer, err := o.accountIssuer(ctx)
	if err == nil {
		o.bao, err = server.FleetOf(ctx, issuer)
	}
	if err != nil {
		server.Stop()
		return err
	}
	for _, program := range []string{"operator", "callout"} {
		account := "system:serviceaccount:" + namespace + ":" + product + "-" + program
		// Who issues tokens is also who they are for, unless a pod asks for others.
		if err := o.bao.Admit(ctx, "fleet-"+program, account, issuer.Name); err != nil {
			return err
		}
	}
	devices := openbao.Issuer{PublicKeys: []string{string(o.provider.PublicKeyPEM())}, Name: o.provider.Issuer()}
	if _, err := o.bao.EnableJWT(ctx, "jwt", devices); err != nil {
		return err
	}
	return o.serveOpenBao()
}

// accountIssuer asks the cluster who signs the tokens of service accounts.
func (o *organisation) accountIssuer(ctx context.Context) (openbao.Issuer, error) {
	var issuer openbao.Issuer
	about, err := o.Kubectl(ctx, "", "get", "--raw=/.well-known/openid-configuration")
	if err != nil {
		return issuer, err
	}
	var discovery struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal([]byte(about), &discovery); err != nil {
		return issuer, fmt.Errorf("reading who issues tokens of service accounts: %w", err)
	}
	set, err := o.Kubectl(ctx, "", "get", "--raw=/openid/v1/jwks")
	if err != nil {
		return issuer, err
	}
	issuer.Name = discovery.Issuer
	issuer.PublicKeys, err = openbao.PublicKeys([]byte(set))
	return issuer, err
}

// serveOpenBao speaks TLS for it, which listens on loopback without.
func (o *organisation) serveOpenBao() error {
	target, err := url.Parse(o.bao.Address())
	if err != nil {
		return fmt.Errorf("reading the address of OpenBao: %w", err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(o.here, "0"))
	if err != nil {
		return fmt.Errorf("listening for OpenBao: %w", err)
	}
	o.vault = "https://" + listener.Addr().String()
	o.front = &http.Server{Handler: httputil.NewSingleHostReverseProxy(target), TLSConfig: o.tls.Clone(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = o.front.ServeTLS(listener, "", "") }() // ends with stop
	return nil
}

// prepare makes what the values name.
func (o *organisation) prepare(ctx context.Context) error {
	if err := importHello(ctx, o.Cluster, "fleet.local/story-outsider:v1"); err != nil {
		return err
	}
	if _, err := o.Kubectl(ctx, securityManifest, "apply", "--filename=-"); err != nil {
		return err
	}
	made, _, err := keys.Complete(nil)
	if err != nil {
		return err
	}
	// The authority that signs is not in the cluster.
	delete(made, keys.AuthorityKey)
	delete(made, keys.AuthorityCert)
	hosts := []string{product + "-nats." + namespace + ".svc", "*." + product + "-nats-pods." + namespace + ".svc", o.node}
	broker, err := o.authority.Issue(pkix.Name{CommonName: "broker"}, hosts...)
	if err != nil {
		return err
	}
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Namespace: namespace} }
	secret := metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}
	for _, object := range []any{
		corev1.Secret{TypeMeta: secret, ObjectMeta: meta("fleet-keys"), Data: made},
		corev1.Secret{TypeMeta: secret, ObjectMeta: meta("fleet-nats-tls"), Data: map[string][]byte{
			"tls.crt": broker.Cert, "tls.key": broker.Key, "ca.crt": o.authority.PEM,
		}},
		corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: meta("fleet-authorities"),
			Data: map[string]string{"ca.crt": string(o.authority.PEM)}},
	} {
		manifest, err := json.Marshal(object)
		if err != nil {
			return fmt.Errorf("encoding a credential: %w", err)
		}
		if _, err := o.Kubectl(ctx, string(manifest), "apply", "--filename=-"); err != nil {
			return err
		}
	}
	return nil
}
