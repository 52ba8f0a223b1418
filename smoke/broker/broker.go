// Package broker runs a real nats-server on loopback with the fleet's accounts,
// streams and permissions, all of them taken from package wire: inside the
// calling process, or in a process of its own that can be killed. It never runs
// with another layout than the product's, and it is for tests and demos: its
// users have passwords, and its connections no TLS unless that is asked for.
package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Broker is a nats-server in this process.
type Broker struct {
	*base
	server *server.Server
}

// Start starts a broker in this process and creates its streams.
func Start(ctx context.Context, options Options) (*Broker, error) {
	base, err := newBase(options)
	if err != nil {
		return nil, err
	}
	b := &Broker{base: base}
	if err := b.run(ctx); err != nil {
		b.Stop()
		return nil, err
	}
	return b, nil
}

func (b *Broker) run(ctx context.Context) error {
	config, err := server.ProcessConfigFile(b.configFile())
	if err != nil {
		return fmt.Errorf("reading the broker's configuration: %w", err)
	}
	config.NoSigs = true // signals are the calling program's
	b.server, err = server.NewServer(config)
	if err != nil {
		return fmt.Errorf("making the broker: %w", err)
	}
	b.server.ConfigureLogger()
	b.server.Start()
	if !b.server.ReadyForConnections(30 * time.Second) {
		return errors.New("starting the broker: not ready for connections after 30s; see broker.log in " + b.Dir())
	}
	return b.provision(ctx)
}

// AddDevice lets another device connect. Connections stay.
func (b *Broker) AddDevice(ctx context.Context, id wire.DeviceID) error {
	return b.admit(ctx, id, b.server.Reload)
}

// Stop stops the broker and removes the folder that it made for itself.
func (b *Broker) Stop() {
	b.shutdown()
	_ = b.removeDir() // a temporary folder
}

// Restart stops the broker and starts it again on the same port and store.
func (b *Broker) Restart(ctx context.Context) error {
	b.shutdown()
	return b.run(ctx)
}

func (b *Broker) shutdown() {
	if b.server != nil {
		b.server.Shutdown()
		b.server.WaitForShutdown()
	}
}
