package stories

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// fleet is what no upgrade may touch.
type fleet struct {
	// resources of people and devices, by what identifies them and what they want.
	resources string
	// buckets of the broker, by their birth, and what they tell the device.
	buckets map[string]string
	// containers of the device, by their ids.
	containers string
}

// fleet is what there is now.
func (u *upgrading) fleet(ctx context.Context) (f fleet, err error) {
	if f.resources, err = u.resources(ctx); err != nil {
		return f, err
	}
	if f.buckets, err = u.buckets(ctx); err != nil {
		return f, err
	}
	f.containers, err = u.machine.Running(ctx)
	return f, err
}

// same waits until everything is as it was at first.
func (u *upgrading) same(ctx context.Context) error {
	return eventually(ctx, func() error {
		now, err := u.fleet(ctx)
		if err != nil {
			return err
		}
		if now.resources != u.before.resources {
			return fmt.Errorf("resources were\n%s\nand are\n%s", u.before.resources, now.resources)
		}
		if !maps.Equal(now.buckets, u.before.buckets) {
			return fmt.Errorf("buckets were\n%v\nand are\n%v", u.before.buckets, now.buckets)
		}
		return u.containers(ctx)
	})
}

// containers is an error when they are not the same as at first.
func (u *upgrading) containers(ctx context.Context) error {
	now, err := u.machine.Running(ctx)
	if err == nil && now != u.before.containers {
		err = fmt.Errorf("containers were %s and are %s", u.before.containers, now)
	}
	return err
}

// resources are what people and devices own.
func (u *upgrading) resources(ctx context.Context) (string, error) {
	return u.Kubectl(ctx, "", "get", "fdep/hello", "fdev/pi-1", "fpol/pi-1",
		`--output=jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid} {.spec.targetSelector} {.spec.score} {.metadata.labels}{"\n"}{end}`)
}

// buckets asks the broker as a person does, see the notes of the chart.
func (u *upgrading) buckets(ctx context.Context) (map[string]string, error) {
	secret := func(name, key string) ([]byte, error) {
		text, err := u.Kubectl(ctx, "", "--namespace="+namespace, "get", "secret", product+"-"+name, "--output=jsonpath={.data."+strings.ReplaceAll(key, ".", `\.`)+"}")
		if err != nil {
			return nil, err
		}
		return base64.StdEncoding.DecodeString(text)
	}
	authority, err := secret("nats-tls", "ca.crt")
	if err != nil {
		return nil, err
	}
	password, err := secret("keys", "admin.password")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(u.dir, "ca.crt")
	if err := os.WriteFile(file, authority, 0o600); err != nil {
		return nil, fmt.Errorf("keeping the broker's authority: %w", err)
	}
	conn, err := nats.Connect(fmt.Sprintf("tls://localhost:%d", u.forward.Port), nats.RootCAs(file), nats.UserInfo("admin", string(password)))
	if err != nil {
		return nil, fmt.Errorf("connecting to the broker: %w", err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, fmt.Errorf("asking for streams: %w", err)
	}
	found := map[string]string{}
	for _, bucket := range wire.Buckets() {
		stream, err := js.Stream(ctx, bucket.Stream())
		if err != nil {
			return nil, fmt.Errorf("asking for the stream %s: %w", bucket.Stream(), err)
		}
		found[bucket.Name] = stream.CachedInfo().Created.String()
	}
	return found, errors.Join(err, told(ctx, js, found))
}

// told adds what the device is told and tells, as bytes.
func told(ctx context.Context, js jetstream.JetStream, found map[string]string) error {
	for bucket, key := range map[wire.Bucket]string{wire.DesiredState: "pi-1.default.hello", wire.DeviceStates: "pi-1.default.hello"} {
		stream, err := js.Stream(ctx, bucket.Stream())
		if err != nil {
			return err
		}
		message, err := stream.GetLastMsgForSubject(ctx, bucket.Subject(key))
		if err != nil {
			return fmt.Errorf("reading %s of %s: %w", key, bucket.Name, err)
		}
		found[bucket.Name+" "+key] = string(message.Data)
	}
	return nil
}
