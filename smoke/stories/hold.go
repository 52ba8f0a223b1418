package stories

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
)

// hold has the cluster hold the device while another version is wanted, and let it go.
func (i *installation) hold(ctx context.Context, d owned) error {
	before, err := d.Running(ctx)
	if err != nil {
		return err
	}
	annotate := func(value string) error {
		_, err := i.Kubectl(ctx, "", "annotate", "fdev", "pi-1", v1alpha1.AnnotationHoldUntil+value)
		return err
	}
	held := `--output=jsonpath={.status.conditions[?(@.type=="Held")].reason}`
	if err := annotate("=" + time.Now().Add(time.Hour).UTC().Format(time.RFC3339)); err != nil {
		return err
	}
	if err := i.until(ctx, v1alpha1.ReasonHeldByCluster, "get", "fdev", "pi-1", held); err != nil {
		return err
	}
	if err := i.apply(ctx, workload{name: "hello", group: "a", image: d.Reach(d.ref("hello:v2"))}); err != nil {
		return err
	}
	if err := i.until(ctx, "1", "get", "fdep", "hello", "--output=jsonpath={.status.aggregate.pending}"); err != nil {
		return err
	}
	err = eventually(ctx, func() error {
		page, err := d.Agent(ctx, "status")
		if err == nil && !strings.Contains(page, "default/hello  Pending (Held)") {
			err = fmt.Errorf("fleet-agent status says\n%s", page)
		}
		return err
	})
	if err != nil {
		return err
	}
	after, err := d.Running(ctx)
	if err == nil && after != before {
		err = fmt.Errorf("containers were %s and are %s", before, after)
	}
	if err != nil {
		return err
	}
	if err := annotate("-"); err != nil {
		return err
	}
	if err := i.until(ctx, "", "get", "fdev", "pi-1", held); err != nil {
		return err
	}
	return i.settled(ctx, workload{name: "hello", devices: 1})
}
