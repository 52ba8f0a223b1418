package stories

import (
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/operator/keys"
	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/helm"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
	"github.com/nationtech/harmony-fleet/smoke/pki"
)

//go:embed security.yaml
var securityManifest string

// secured installs with the values of a security team, in the namespace that it gives:
// nothing is made in the cluster that has to be kept secret, and a device comes in
// through the organisation's provider.
func secured(ctx context.Context, c *cluster.Cluster) error {
	return installing(ctx, c, func(i *installation) (err error) {
		if err := i.supply(ctx); err != nil {
			return err
		}
		o, err := newOrganisation(ctx, i)
		if err != nil {
			return err
		}
		defer o.provider.Stop()
		for _, step := range []struct {
			what string
			run  func(context.Context) error
		}{
			{"a namespace with bounds, and every credential, are there beforehand", o.prepare},
			{"helm install, with a security team's values, makes everything ready", o.install},
			{"no pod has an account that it was not given, and everything is there twice", o.inspect},
			{"a pod from elsewhere reaches what is meant for it, and nothing else", o.guarded},
		} {
			if err := i.Step(step.what, func() error { return step.run(ctx) }); err != nil {
				return err
			}
		}
		if err := o.device(ctx); err != nil {
			return err
		}
		return i.Step("all of it is removed", func() error { return o.remove(ctx) })
	})
}

// organisation is what there is around an installation: an authority and a provider.
type organisation struct {
	*installation
	node      string
	authority *pki.Authority
	provider  *oidc.Provider
}

func newOrganisation(ctx context.Context, i *installation) (*organisation, error) {
	o := &organisation{installation: i}
	var err error
	if o.node, err = i.node(ctx); err != nil {
		return nil, err
	}
	if o.authority, err = pki.NewAuthority(); err != nil {
		return nil, err
	}
	here, err := addressTowards(o.node)
	if err != nil {
		return nil, err
	}
	pair, err := o.authority.Issue(pkix.Name{CommonName: "provider"}, here)
	if err != nil {
		return nil, err
	}
	certificate, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, fmt.Errorf("reading the provider's certificate: %w", err)
	}
	o.provider, err = oidc.Start(ctx, oidc.Options{Address: here, TLS: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}})
	return o, err
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

func (o *organisation) install(ctx context.Context) error {
	file := filepath.Join(o.tree.Root, "charts", product, "ci", "security-values.yaml")
	values, err := helm.Values(file, "callout.config.oidc.issuer="+o.provider.Issuer())
	if err != nil {
		return err
	}
	// Digits, which --set would take for a number.
	if err := helm.SetString(values, "callout.config.oidc.audience="+o.provider.ProjectID()); err != nil {
		return err
	}
	if err := o.installation.install(ctx, values); err != nil {
		return err
	}
	return o.findBroker(ctx, o.node)
}

// inspect looks at what runs, and at what may be evicted.
func (o *organisation) inspect(ctx context.Context) error {
	out, err := o.Kubectl(ctx, "", "--namespace="+namespace, "get", "pods", "--output=json")
	if err != nil {
		return err
	}
	var pods corev1.PodList
	if err := json.Unmarshal([]byte(out), &pods); err != nil {
		return fmt.Errorf("reading the pods: %w", err)
	}
	twice := map[string]int{}
	for _, pod := range pods.Items {
		if pod.Spec.ServiceAccountName == "default" {
			return fmt.Errorf("pod %s has the default account of its namespace", pod.Name)
		}
		twice[pod.Labels["app.kubernetes.io/component"]]++
	}
	if twice["operator"] != 2 || twice["callout"] != 2 || twice["keys"] != 0 {
		return fmt.Errorf("there are pods of %v: want two of operator and callout, and nobody who makes keys", twice)
	}
	_, err = o.Kubectl(ctx, "", "--namespace="+namespace, "get", "poddisruptionbudget", product+"-operator", product+"-callout")
	return err
}

// guarded tries the ports of the broker's pod.
func (o *organisation) guarded(ctx context.Context) error {
	address, err := o.Kubectl(ctx, "", "--namespace="+namespace, "get", "pod", product+"-nats-0", "--output=jsonpath={.status.podIP}")
	if err != nil {
		return err
	}
	if _, err := o.Kubectl(ctx, "", "--namespace=story-outside", "wait", "--for=condition=Ready", "pod/outsider", "--timeout=2m"); err != nil {
		return err
	}
	dial := func(port string) error {
		_, err := o.Kubectl(ctx, "", "--namespace=story-outside", "exec", "outsider", "--", "/hello", "-dial", net.JoinHostPort(address, port))
		return err
	}
	if err := eventually(ctx, func() error { return dial("4222") }); err != nil {
		return err
	}
	for _, port := range []string{"6222", "8222"} {
		if dial(port) == nil {
			return fmt.Errorf("port %s of the broker takes connections from a pod that no policy allows: does the cluster enforce NetworkPolicies?", port)
		}
	}
	return nil
}

// device has this host come in as a machine user of the provider, and run something.
func (o *organisation) device(ctx context.Context) (err error) {
	m, err := newMachine(ctx, o.Cluster)
	defer func() { err = errors.Join(err, m.stop()) }()
	if err != nil {
		return err
	}
	err = o.Step("a device comes in with a token of the provider", func() error {
		return o.explain(ctx, m, o.admit(ctx, m))
	})
	if err != nil {
		return err
	}
	return o.Step("a Deployment runs on it, and its status says so", func() error {
		if err := o.deploy(ctx, m, "v1"); err != nil {
			return o.explain(ctx, m, err)
		}
		return o.installation.remove(ctx, workload{name: "hello"})
	})
}

// admit makes a machine user, and has `kubectl fleet enroll` say how the device is to
// be configured.
func (o *organisation) admit(ctx context.Context, m *machine) error {
	user, err := o.provider.AddMachine(oidc.Machine{Name: "device-pi-1", Roles: []string{"device"}, RoleClaims: oidc.ProjectRoleMap})
	if err != nil {
		return err
	}
	configuration, err := m.fleet(ctx, "enroll", "pi-1", "--label", "group=a", "--url", o.url,
		"--login", "token", "--issuer", o.provider.Issuer(), "--audience", o.provider.ProjectID())
	if err != nil {
		return err
	}
	authorities := m.path("ca.pem")
	for path, content := range map[string][]byte{
		m.path("config.toml"): []byte(strings.ReplaceAll(configuration, "/etc/fleet-agent/", m.dir+"/")),
		m.path("key.json"):    user.KeyJSON,
		authorities:           o.authority.PEM,
	} {
		if err := os.WriteFile(filepath.Clean(path), content, 0o600); err != nil {
			return err
		}
	}
	return m.run("SSL_CERT_FILE=" + authorities)
}

func (o *organisation) remove(ctx context.Context) error {
	if err := o.helm.Uninstall(product); err != nil {
		return err
	}
	if _, err := o.Kubectl(ctx, "", "delete", "namespace", "story-outside", "--wait=false"); err != nil {
		return err
	}
	return o.clear(ctx)
}
