package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Findings is what Probe learnt of a broker.
type Findings struct {
	// Server is the address that answered and the server's version.
	Server string
	// TLS says whether the connection is encrypted.
	TLS bool
	// Generation of the stored manifest; 0 when there is none yet.
	Generation uint64
}

// Probe connects once as the agent does, subscribes to all that it subscribes
// to, and reads the device's manifest. It writes and answers nothing, so it can
// be used beside a running agent. Errors say what to do; Findings is filled in as far as
// it got, with Server empty when there was no connection.
func Probe(ctx context.Context, to Target) (Findings, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	_, nc, err := dial(ctx, to,
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { cancel(explain(to, err)) }))
	if err != nil {
		return Findings{}, err
	}
	defer nc.Close()
	_, tlsError := nc.TLSConnectionState()
	findings := Findings{
		Server: fmt.Sprintf("%s, nats-server %s", nc.ConnectedUrlRedacted(), nc.ConnectedServerVersion()),
		TLS:    tlsError == nil,
	}
	s := &session{
		Bus: New(Options{Target: to}), nc: nc,
		hints: make(chan *nats.Msg, 1), commands: make(chan *nats.Msg, 1), heartbeats: make(chan *nats.Msg, 1),
	}
	err = s.subscribe()
	var manifest wire.Manifest
	if err == nil {
		_, manifest, err = s.manifest(ctx, to.TrustedKeys)
	}
	// A refusal reaches the error handler, and its sender as a time-out at most.
	if refused := context.Cause(ctx); refused != nil {
		return findings, refused
	}
	if err != nil && !errors.Is(err, errNoKey) {
		return findings, fmt.Errorf("looking for the manifest of device %q: %w", to.Device, err)
	}
	findings.Generation = manifest.Generation
	return findings, nil
}
