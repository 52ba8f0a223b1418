package stories

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/agent/config"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/cluster"
)

const (
	servers = 3
	// fewDevices are enough for each server to have some.
	fewDevices = 30
)

// available has three servers, on however many nodes there are, and takes one after
// the other away; and of two operators the one that works.
func available(ctx context.Context, c *cluster.Cluster) error {
	return installing(ctx, c, func(i *installation) error {
		if err := i.onNodePort(ctx, "with three servers and two operators", "nats.replicas=3", "operator.replicas=2"); err != nil {
			return err
		}
		return i.withLoad(ctx, fewDevices, func(l *load) error {
			for n := range servers {
				if err := l.Step("every stream is held by three servers", func() error { return l.thrice(ctx) }); err != nil {
					return err
				}
				l.crowd.losses() // those before
				what := fmt.Sprintf("server %d is deleted: what changes meanwhile arrives, and the rest runs on", n)
				err := l.step(ctx, what, func() error { return l.deletePod(ctx, fmt.Sprintf("%s-nats-%d", product, n)) })
				if err != nil {
					return err
				}
				if lost := l.crowd.losses(); lost == fewDevices {
					return fmt.Errorf("all %d devices lost their connection with one of three servers: those of the others were to last", lost)
				}
			}
			err := l.step(ctx, "the operator that leads is deleted, and the other takes over", func() error {
				leader, err := l.Kubectl(ctx, "", "--namespace="+namespace, "get", "leases", "--output=jsonpath={.items[0].spec.holderIdentity}")
				if err != nil {
					return err
				}
				pod, _, _ := strings.Cut(leader, "_")
				return l.deletePod(ctx, pod)
			})
			if err != nil {
				return err
			}
			return l.end(ctx)
		})
	})
}

// deletePod returns when it is gone.
func (i *installation) deletePod(ctx context.Context, name string) error {
	_, err := i.Kubectl(ctx, "", "--namespace="+namespace, "delete", "pod", name, "--timeout=2m")
	return err
}

// thrice waits until each stream has three holders that all have all of it.
func (l *load) thrice(ctx context.Context) error {
	nc, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	for _, bucket := range wire.Buckets() {
		err := eventually(ctx, func() error {
			stream, err := js.Stream(ctx, bucket.Stream())
			if err != nil {
				return fmt.Errorf("asking about %s: %w", bucket.Name, err)
			}
			holders := stream.CachedInfo().Cluster
			if holders == nil || len(holders.Replicas) != servers-1 {
				return fmt.Errorf("%s is held by %+v, want %d servers", bucket.Name, holders, servers)
			}
			for _, other := range holders.Replicas {
				if !other.Current || other.Offline {
					return fmt.Errorf("of %s, led by %s, one is behind: %+v", bucket.Name, holders.Leader, other)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// connect is the broker as people see it, by the way that devices take.
func (l *load) connect(ctx context.Context) (*nats.Conn, error) {
	agent, err := config.Load(l.machine.path("config.toml"))
	if err != nil {
		return nil, err
	}
	secret, err := l.Kubectl(ctx, "", "--namespace="+namespace, "get", "secret", product+"-keys", `--output=jsonpath={.data.admin\.password}`)
	if err != nil {
		return nil, err
	}
	password, err := base64.StdEncoding.DecodeString(secret)
	if err != nil {
		return nil, fmt.Errorf("reading the password of people: %w", err)
	}
	nc, err := nats.Connect(l.url, nats.RootCAs(agent.NATS.CAFile), nats.UserInfo("admin", string(password)))
	if err != nil {
		return nil, fmt.Errorf("connecting to %s as admin: %w", l.url, err)
	}
	return nc, nil
}
