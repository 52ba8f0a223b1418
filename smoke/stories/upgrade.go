package stories

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/nationtech/harmony-fleet/release/version"
	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// upgrade begins with the previous release and a device that runs something, and
// takes the cluster to this tree's release, back as far as that goes, away, and up
// again. The device's container never notices.
func upgrade(ctx context.Context, c *cluster.Cluster) error {
	return installing(ctx, c, func(i *installation) (err error) {
		if cutOff(ctx, i.tree.Root) {
			fmt.Fprintf(i.Progress(), "LEFT OUT: this clone has no commit %s, from which the previous release is built; `git fetch --unshallow` brings it\n", version.Previous)
			return nil
		}
		u := &upgrading{installation: i}
		if err := u.begin(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, u.end()) }()
		for _, part := range []func(context.Context) error{u.join, u.forth, u.lock, u.back, u.away} {
			if err := part(ctx); err != nil {
				return err
			}
		}
		return i.down(ctx)
	})
}

// upgrading is an installation that changes, and what must not.
type upgrading struct {
	*installation
	previous previous
	archive  string  // of this tree's chart
	guide    *reader // of docs/upgrade.md
	machine  *machine
	forward  *cluster.Forward
	before   fleet
}

// step is a part of a story that can be told in few words.
type step struct {
	what string
	run  func() error
}

// tell runs the steps; what fails has the words of the pods and of the agent.
func (u *upgrading) tell(ctx context.Context, steps ...step) error {
	for _, s := range steps {
		err := u.Step(s.what, func() error {
			err := s.run()
			if err != nil && u.machine != nil && u.machine.agent != nil {
				err = fmt.Errorf("%w\nfleet-agent:\n%s", err, u.machine.agent.LogTail(30))
			}
			if err != nil {
				err = errors.Join(err, u.logs(ctx))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// begin installs the previous release.
func (u *upgrading) begin(ctx context.Context) error {
	if err := u.supply(ctx); err != nil {
		return err
	}
	return u.tell(ctx,
		step{"so are the previous release's", func() (err error) {
			if u.archive, err = u.pack(); err != nil {
				return err
			}
			if u.guide, err = u.read(ctx, "docs/upgrade.md", tools.Helm3); err != nil {
				return err
			}
			u.previous, err = importPrevious(ctx, u.Cluster, u.tree)
			return err
		}},
		step{"the previous release is installed", func() error {
			if err := u.house(ctx); err != nil {
				return err
			}
			return u.helm.Install(ctx, product, u.previous.archive, u.previous.values())
		}},
	)
}

// values of a release whose images are known to the cluster by another tag.
func (p previous) values() map[string]any {
	return map[string]any{"image": map[string]any{"tag": p.tag}}
}

// end takes the device away.
func (u *upgrading) end() error {
	if u.forward != nil {
		u.forward.Stop()
	}
	if u.machine == nil {
		return nil
	}
	return u.machine.stop()
}

// join lets the device in, has it run something, and remembers what there is.
func (u *upgrading) join(ctx context.Context) (err error) {
	if u.machine, err = newMachine(ctx, u.Cluster); err != nil {
		return err
	}
	if err := os.Symlink(u.machine.path("kubectl-fleet"), filepath.Join(u.guide.bin, "kubectl-fleet")); err != nil {
		return err
	}
	if u.forward, err = u.Forward(ctx, namespace, "service/"+product+"-nats", 4222); err != nil {
		return err
	}
	return u.tell(ctx,
		step{"a device joins and runs something", func() error {
			command, err := u.machine.fleet(ctx, "enroll", "pi-1", "--label", "group=a", "--url", fmt.Sprintf("tls://localhost:%d", u.forward.Port))
			if err != nil {
				return err
			}
			if err := u.machine.join(ctx, command); err != nil {
				return err
			}
			return u.deploy(ctx, u.machine, "v1")
		}},
		step{"what the cluster, the broker and the device hold is noted", func() (err error) {
			u.before, err = u.fleet(ctx)
			return err
		}},
	)
}

// forth upgrades to this tree.
func (u *upgrading) forth(ctx context.Context) error {
	return u.tell(ctx,
		step{"helm upgrade makes everything ready", func() error { return u.followed(ctx, u.guide.block("", 0), map[string]any{}) }},
		step{"the definitions are those of the operator, and everything is in step", func() error { return u.inStep(ctx) }},
		step{"resources, buckets and containers are what they were", func() error { return u.same(ctx) }},
		step{"a field that is new can be used", func() error {
			return u.setLateField(ctx, "false")
		}},
	)
}

// followed runs a command of docs/upgrade.md that changes the installation, with values.
func (u *upgrading) followed(ctx context.Context, command string, values map[string]any) error {
	mine, err := yaml.Marshal(values)
	if err != nil {
		return fmt.Errorf("writing values: %w", err)
	}
	if err := os.WriteFile(filepath.Join(u.dir, "my-values.yaml"), mine, 0o600); err != nil {
		return err
	}
	if _, err := u.guide.run(ctx, command); err != nil {
		return err
	}
	return u.forward.Again(ctx)
}

// to upgrades to the chart. Its broker is another pod then, as it has a program of
// the release beside it.
func (u *upgrading) to(ctx context.Context, archive string, values map[string]any) error {
	if err := u.helm.Upgrade(ctx, product, archive, values); err != nil {
		return err
	}
	return u.forward.Again(ctx)
}

// setLateField sets the field that the previous release lacks, and sees it kept.
func (u *upgrading) setLateField(ctx context.Context, value string) error {
	if _, err := u.Kubectl(ctx, "", "patch", "fdep", "hello", "--type=merge", fmt.Sprintf(`--patch={"spec":{%q:%s}}`, lateField, value)); err != nil {
		return err
	}
	return u.until(ctx, value, "get", "fdep", "hello", "--output=jsonpath={.spec."+lateField+"}")
}

// inStep waits until `kubectl fleet version` has nothing to note.
func (u *upgrading) inStep(ctx context.Context) error {
	if err := u.guide.follow(ctx, "", 1); err != nil {
		return err
	}
	return eventually(ctx, func() error {
		out, err := u.machine.fleet(ctx, "version", "--output=json")
		if err == nil && (strings.Contains(out, `"note"`) || !strings.Contains(out, "definition deployments")) {
			err = fmt.Errorf("it says %s", out)
		}
		return err
	})
}

// back goes back to the previous release: not with its definitions, which lack a
// field that is in use, but with its programs. Helm goes on when one object is
// refused, so that a rollback does just that and fails.
func (u *upgrading) back(ctx context.Context) error {
	return u.tell(ctx,
		step{"helm rollback is refused the definition, for the field that would be lost", func() error {
			if err := refused(u.helm.Rollback(product, 1), "spec."+lateField, "fleet.nationtech.io/allow-downgrade"); err != nil {
				return err
			}
			return u.until(ctx, "false", "get", "fdep", "hello", "--output=jsonpath={.spec."+lateField+"}")
		}},
		step{"without the definitions the previous release runs, and nothing is lost", func() error {
			command := strings.Replace(u.guide.block("Back", 0), "OLDER-CHART", u.previous.archive, 1)
			if err := u.followed(ctx, command, u.previous.values()); err != nil {
				return err
			}
			return u.same(ctx)
		}},
	)
}

// refused is an error unless err is one that has all of the words.
func refused(err error, words ...string) error {
	if err == nil {
		return errors.New("it was not refused")
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			return fmt.Errorf("the refusal does not name %q: %w", word, err)
		}
	}
	return nil
}

// away uninstalls, and installs this tree, which takes everything over.
func (u *upgrading) away(ctx context.Context) error {
	return u.tell(ctx,
		step{"helm uninstall leaves definitions, resources and containers", func() error {
			if err := u.helm.Uninstall(product); err != nil {
				return err
			}
			after, err := u.resources(ctx)
			if err != nil {
				return err
			}
			if after != u.before.resources {
				return fmt.Errorf("resources were\n%s\nand are\n%s", u.before.resources, after)
			}
			return u.containers(ctx)
		}},
		step{"helm install takes them over", func() error {
			if err := u.helm.Install(ctx, product, u.archive, nil); err != nil {
				return err
			}
			if err := u.forward.Again(ctx); err != nil {
				return err
			}
			return u.same(ctx)
		}},
		step{"another version replaces the container, and it is deleted", func() error {
			if err := u.deploy(ctx, u.machine, "v2"); err != nil {
				return err
			}
			if err := u.containers(ctx); err == nil {
				return errors.New("the container is the same as before")
			}
			_, err := u.Kubectl(ctx, "", "delete", "deployments.fleet.nationtech.io", "--all", "--timeout=2m")
			return err
		}},
	)
}
