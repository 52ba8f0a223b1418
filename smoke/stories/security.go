package stories

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/helm"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
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
		defer func() { err = errors.Join(err, o.stop()) }()
		if err != nil {
			return err
		}
		for _, step := range []struct {
			what string
			run  func(context.Context) error
		}{
			{"OpenBao keeps the policies, and knows the cluster's service accounts", o.startOpenBao},
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

func (o *organisation) install(ctx context.Context) error {
	file := filepath.Join(o.tree.Root, "docs", "security-values.yaml")
	values, err := helm.Values(file, "callout.config.oidc.issuer="+o.provider.Issuer(),
		"callout.config.openbao.address="+o.vault, "operator.config.openbao.address="+o.vault)
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
		// Only OpenBao knows the device.
		if err := o.until(ctx, "", "get", "devicepolicies", "--output=name"); err != nil {
			return err
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
	person, err := o.bao.Person(ctx)
	if err != nil {
		return err
	}
	authorities := m.path("ca.pem")
	if err := os.WriteFile(authorities, o.authority.PEM, 0o600); err != nil {
		return err
	}
	m.env = append(m.env, "BAO_ADDR="+o.vault, "BAO_CACERT="+authorities, "BAO_TOKEN="+person)
	configuration, err := m.fleet(ctx, "enroll", "pi-1", "--label", "group=a", "--url", o.url,
		"--login", "token", "--issuer", o.provider.Issuer(), "--audience", o.provider.ProjectID())
	if err != nil {
		return err
	}
	for path, content := range map[string][]byte{
		m.path("config.toml"): []byte(strings.ReplaceAll(configuration, "/etc/fleet-agent/", m.dir+"/")),
		m.path("key.json"):    user.KeyJSON,
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
