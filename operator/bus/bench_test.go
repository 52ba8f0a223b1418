package bus_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/go-logr/logr"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

// BenchmarkReplay reads a full bucket: once as the operator does, once through a
// bare ordered consumer that drops the bytes, for the ratio.
func BenchmarkReplay(b *testing.B) {
	const keys = 100_000
	server := startProcess(b, broker.Options{})
	nc, js := raw(b, server)
	fill(b, nc, keys)
	conn, err := bus.Connect(b.Context(), bus.Options{NATS: server.NATS(), Credentials: server.Operator(), Log: logr.Discard()})
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	readers := map[string]func() (int, error){
		"snapshot": func() (n int, err error) {
			_, err = conn.Snapshot(b.Context(), states, func(bus.Entry) { n++ })
			return n, err
		},
		"ordered": func() (n int, err error) { return keys, drop(b.Context(), js, keys) },
	}
	for name, read := range readers {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if n, err := read(); n != keys || err != nil {
					b.Fatalf("read %d of %d keys: %v", n, keys, err)
				}
			}
			b.ReportMetric(float64(keys)*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
		})
	}
}

// drop reads that many messages through an ordered consumer.
func drop(ctx context.Context, js jetstream.JetStream, messages int) error {
	consumer, err := js.OrderedConsumer(ctx, states.Stream(), jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return err
	}
	done := make(chan struct{})
	consuming, err := consumer.Consume(func(jetstream.Msg) {
		if messages--; messages == 0 {
			close(done)
		}
	})
	if err != nil {
		return err
	}
	<-done
	consuming.Stop()
	<-consuming.Closed()
	return nil
}

// BenchmarkWrite writes the units of 1,000 devices, with each message on the
// disk before it is acknowledged as the chart has it, and without.
func BenchmarkWrite(b *testing.B) {
	for _, always := range []bool{true, false} {
		b.Run(fmt.Sprintf("sync_always=%t", always), func(b *testing.B) {
			server := startProcess(b, broker.Options{SyncAlways: always})
			conn, err := bus.Connect(b.Context(), bus.Options{NATS: server.NATS(), Credentials: server.Operator(), Log: logr.Discard()})
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			batch := units(1000, 1, fmt.Sprintf("%0250d", 1))
			for b.Loop() {
				if _, err := conn.Write(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(2000*float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}
