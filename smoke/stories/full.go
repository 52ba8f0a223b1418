package stories

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/nationtech/harmony-fleet/smoke/cluster"
)

// filler.yaml is a pod that has the broker's volume too.
//
//go:embed filler.yaml
var fillerManifest string

const (
	filler  = "filler"
	ballast = "/data/ballast"
)

// smallVolume are the settings by which the broker gets a volume that can be filled up;
// none where the cluster has no such.
func (i *installation) smallVolume(ctx context.Context) (settings []string, err error) {
	found, err := i.Kubectl(ctx, "", "get", "storageclass", cluster.SmallStorageClass, "--ignore-not-found", "--output=name")
	if err != nil || found == "" {
		return nil, err
	}
	return []string{"nats.storage.className=" + cluster.SmallStorageClass}, nil
}

// fillVolume takes the room of the broker's volume away and gives it back: the
// operator says what is wrong, a broker that starts meanwhile comes up, and nothing
// is lost.
func (l *load) fillVolume(ctx context.Context) error {
	for _, step := range []struct {
		what string
		run  func() error
	}{
		{"the broker's volume is full: the operator says so", func() error { return l.fill(ctx) }},
		{"and the broker starts anew with what it has", func() error {
			if err := l.deletePods(ctx, "nats"); err != nil {
				return err
			}
			return l.ready(ctx)
		}},
	} {
		if err := l.Step(step.what, func() error { return l.explain(ctx, l.machine, step.run()) }); err != nil {
			return err
		}
	}
	return l.step(ctx, "there is room again: what changed arrives, and the rest runs on", func() error {
		if _, err := l.inFiller(ctx, "-empty", ballast); err != nil {
			return err
		}
		_, err := l.Kubectl(ctx, "", "--namespace="+namespace, "delete", "pod", filler, "--timeout=2m")
		return err
	})
}

// fill also changes something, which cannot be stored.
func (l *load) fill(ctx context.Context) error {
	if err := importHello(ctx, l.Cluster, "fleet.local/story-filler:v1"); err != nil {
		return err
	}
	if _, err := l.Kubectl(ctx, fillerManifest, "apply", "--filename=-"); err != nil {
		return err
	}
	if _, err := l.Kubectl(ctx, "", "--namespace="+namespace, "wait", "--for=condition=Ready", "pod/"+filler, "--timeout=3m"); err != nil {
		return err
	}
	if _, err := l.inFiller(ctx, "-fill", ballast); err != nil {
		return err
	}
	l.many.image = l.machine.registry.Ref("hello:never")
	if err := l.apply(ctx, l.many); err != nil {
		return err
	}
	return eventually(ctx, func() error {
		log, err := l.Kubectl(ctx, "", "--namespace="+namespace, "logs", "deployment/"+product+"-operator", "--tail=50")
		if err == nil && !strings.Contains(log, "is its volume full?") {
			err = fmt.Errorf("the operator does not say that the broker's volume is full:\n%s", log)
		}
		return err
	})
}

func (l *load) inFiller(ctx context.Context, args ...string) (string, error) {
	return l.Kubectl(ctx, "", append([]string{"--namespace=" + namespace, "exec", filler, "--", "/hello"}, args...)...)
}
