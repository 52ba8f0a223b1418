package stories

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nationtech/harmony-fleet/smoke/cluster"
)

// mistakes are what people get wrong when they install: each is refused by an error
// that says what is wrong where, and leaves the cluster as it was.
func mistakes(ctx context.Context, c *cluster.Cluster) error {
	return installing(ctx, c, func(i *installation) error {
		if err := i.supply(ctx); err != nil {
			return err
		}
		archive, err := i.pack()
		if err != nil {
			return err
		}
		m := mistaken{i, archive}
		for _, part := range []func(context.Context) error{m.values, m.cluster, m.missing, m.another} {
			if err := part(ctx); err != nil {
				return err
			}
		}
		return i.Step("everything can be removed", func() error { return i.clear(ctx) })
	})
}

// mistaken is an installation that is tried in wrong ways.
type mistaken struct {
	*installation
	archive string
}

// mistake is a command and the words of its error.
type mistake struct {
	what string
	args []string
	want []string
}

// try makes the mistakes, each of which changes nothing.
func (m mistaken) try(ctx context.Context, mistakes ...mistake) error {
	for _, wrong := range mistakes {
		err := m.Step(wrong.what, func() error {
			before, err := m.objects(ctx)
			if err != nil {
				return err
			}
			out, err := m.command(ctx, wrong.args...)
			if err := refused(err, wrong.want...); err != nil {
				return errors.Join(err, errors.New(out))
			}
			after, err := m.objects(ctx)
			if err == nil && after != before {
				err = fmt.Errorf("the cluster had\n%s\nand has\n%s", before, after)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// objects are all that an installation could make, with what would show a change,
// but for NACK's definitions: what is in crds/ of a chart Helm installs before it
// looks at a value.
func (m mistaken) objects(ctx context.Context) (string, error) {
	all, err := m.Kubectl(ctx, "", "get", "--all-namespaces", `--output=jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid} {.metadata.generation}{"\n"}{end}`,
		"namespaces,secrets,configmaps,services,serviceaccounts,deployments.apps,statefulsets,persistentvolumeclaims,poddisruptionbudgets,networkpolicies,"+
			"roles,rolebindings,clusterroles,clusterrolebindings,customresourcedefinitions,validatingadmissionpolicies,validatingadmissionpolicybindings")
	var kept strings.Builder
	for line := range strings.Lines(all) {
		if !strings.Contains(line, ".jetstream.nats.io ") {
			kept.WriteString(line)
		}
	}
	return kept.String(), err
}

// install is a command that installs the chart by the product's name.
func (m mistaken) install(flags ...string) []string {
	return append([]string{"install", product, m.archive}, flags...)
}

// values are wrong values.
func (m mistaken) values(ctx context.Context) error {
	if err := m.house(ctx); err != nil {
		return err
	}
	digest := "sha256:" + strings.Repeat("1", 64)
	return m.try(ctx,
		mistake{"a misspelt value is refused", m.install("--set=operator.replica=2"), []string{"/operator", "replica", "not allowed"}},
		mistake{"so is one of the wrong type", m.install("--set-string=nats.replicas=three"), []string{"/nats/replicas", "string", "integer"}},
		mistake{"so is a tag that a digest contradicts", m.install("--set=image.tag=other", "--set=image.digests.operator="+digest), []string{"/image/tag"}},
	)
}

// cluster is one that the chart is not for, or not for this person.
func (m mistaken) cluster(ctx context.Context) error {
	admin := []string{"--namespace=" + namespace, "create", "rolebinding", "jo", "--clusterrole=admin", "--user=jo"}
	if _, err := m.Kubectl(ctx, "", admin...); err != nil {
		return err
	}
	return m.try(ctx,
		mistake{"a cluster that is too old is refused", []string{"template", product, m.archive, "--kube-version=1.30.0"}, []string{"kubeVersion", ">=1.31.0", "1.30.0"}},
		mistake{"so is a person without rights in the namespace", m.install("--kube-as-user=sam", "--skip-crds"), []string{"forbidden", "sam", namespace}},
		mistake{"so is one with no rights beyond it", m.install("--kube-as-user=jo"), []string{"forbidden", "jo", "customresourcedefinitions"}},
	)
}

// missing names a Secret that is not there. That is no error of Helm's: the Secret
// may come later.
func (m mistaken) missing(ctx context.Context) error {
	return m.Step("pods wait for a Secret that is missing, and say so", func() error {
		notes, err := m.command(ctx, m.install("--set=keys.existingSecret=absent")...)
		if err != nil {
			return err
		}
		if !strings.Contains(notes, "get secret absent") {
			return fmt.Errorf("the notes do not tell of the Secret: %s", notes)
		}
		return eventually(ctx, func() error {
			events, err := m.Kubectl(ctx, "", "--namespace="+namespace, "get", "events", "--output=jsonpath={range .items[*]}{.involvedObject.name} {.message}{\"\\n\"}{end}")
			for _, component := range []string{"operator", "callout", "nack"} {
				found := false
				for line := range strings.Lines(events) {
					found = found || strings.HasPrefix(line, product+"-"+component) && strings.Contains(line, `secret "absent" not found`)
				}
				if err == nil && !found {
					err = fmt.Errorf("nothing is said of %s:\n%s", component, events)
				}
			}
			log, problem := m.Kubectl(ctx, "", "--namespace="+namespace, "logs", "deployment/"+product+"-keys")
			if problem == nil && !strings.Contains(log, "the Secret absent: it is not there") {
				problem = fmt.Errorf("who makes keys does not miss it: %s", log)
			}
			return errors.Join(err, problem)
		})
	})
}

// another is a second installation, or one by another name over what is kept.
func (m mistaken) another(ctx context.Context) error {
	owned := []string{"deployments.fleet.nationtech.io", "meta.helm.sh/release-name", product}
	err := m.try(ctx, mistake{"a second installation in the cluster is refused", []string{"install", "second", m.archive, "--namespace=default"}, owned})
	if err != nil {
		return err
	}
	err = m.Step("helm uninstall keeps the definitions", func() error {
		_, err := m.command(ctx, "uninstall", product, "--wait")
		return err
	})
	if err != nil {
		return err
	}
	return m.try(ctx, mistake{"an installation by another name is refused: they are the first one's", []string{"install", "other", m.archive}, owned})
}
