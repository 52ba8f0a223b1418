package stories

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// operatorPods selects the operator.
const operatorPods = "--selector=app.kubernetes.io/component=operator,app.kubernetes.io/instance=" + product

// later is a Deployment for no device, which shows whether the operator writes.
const later = `{"apiVersion":"fleet.nationtech.io/v1alpha1","kind":"Deployment","metadata":{"name":"later","namespace":"default"},
"spec":{"targetSelector":{"matchLabels":{"group":"none"}},"score":{"podmanV0":{"services":[{"name":"later","image":"example.com/later:v1"}]}}}}`

// lock edits a definition: an operator that starts then is not ready, says why and
// writes nothing, until the definition is put right.
func (u *upgrading) lock(ctx context.Context) error {
	const definition, seen = "deployments.fleet.nationtech.io", "--output=jsonpath={.metadata.finalizers}{.status.observedGeneration}"
	kubectl := func(args ...string) (string, error) { return u.Kubectl(ctx, "", args...) }
	var pod string // of the operator
	unwritten := func() error {
		wrote, err := kubectl("get", "fdep", "later", seen)
		if err == nil && wrote != "" {
			err = fmt.Errorf("it wrote %s", wrote)
		}
		return err
	}
	return u.tell(ctx,
		step{"somebody edits a definition, and an operator that starts then is not ready", func() (err error) {
			const edit = `[{"op":"add","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/more","value":{"type":"string"}}]`
			if _, err := kubectl("patch", "crd", definition, "--type=json", "--patch="+edit); err != nil {
				return err
			}
			if _, err := kubectl("--namespace="+namespace, "delete", "pod", operatorPods, "--timeout=2m"); err != nil {
				return err
			}
			if err := u.until(ctx, "False", "--namespace="+namespace, "get", "pod", operatorPods, `--output=jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`); err != nil {
				return err
			}
			pod, err = kubectl("--namespace="+namespace, "get", "pod", operatorPods, "--output=jsonpath={.items[*].metadata.name}")
			return err
		}},
		step{"it says why, and writes nothing", func() error {
			if _, err := u.Kubectl(ctx, later, "apply", "--filename=-"); err != nil {
				return err
			}
			err := eventually(ctx, func() error {
				events, err := kubectl("--namespace="+namespace, "get", "events", "--field-selector=reason=Unhealthy,involvedObject.name="+pod)
				if err != nil {
					return err
				}
				log, err := kubectl("--namespace="+namespace, "logs", operatorPods)
				if err == nil && !(strings.Contains(log, definition+" has been changed") && strings.Contains(events, "Readiness probe failed")) {
					err = fmt.Errorf("its log does not say that the definition was changed, or nobody has asked it yet:\n%s\n%s", log, events)
				}
				return err
			})
			if err != nil {
				return err
			}
			return unwritten()
		}},
		step{"helm upgrade is refused, for the field that is foreign", func() error {
			err := refused(u.helm.Upgrade(ctx, product, u.archive, nil), "spec.more", "fleet.nationtech.io/allow-downgrade")
			// Seconds have passed, and it still writes nothing.
			return errors.Join(err, unwritten())
		}},
		step{"with a person's word it puts the definition right, and the operator goes on", func() error {
			if _, err := u.guide.run(ctx, u.guide.line("What is checked", 0)); err != nil {
				return err
			}
			if err := u.to(ctx, u.archive, nil); err != nil {
				return err
			}
			if _, err := u.guide.run(ctx, u.guide.line("What is checked", 1)); err != nil {
				return err
			}
			if err := u.until(ctx, `["fleet.nationtech.io/desired-state"]1`, "get", "fdep", "later", seen); err != nil {
				return err
			}
			if _, err := kubectl("delete", "fdep", "later", "--timeout=2m"); err != nil {
				return err
			}
			return u.same(ctx)
		}},
	)
}
