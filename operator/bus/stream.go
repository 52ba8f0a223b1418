package bus

import (
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// StreamConfig is the configuration of the stream behind a bucket: what the
// embedded broker creates and what Verify holds a broker's streams against.
func StreamConfig(b wire.Bucket) jetstream.StreamConfig {
	config := jetstream.StreamConfig{
		Name:               b.Stream(),
		Description:        b.Description,
		Subjects:           []string{b.Subjects()},
		Retention:          jetstream.LimitsPolicy,
		Discard:            jetstream.DiscardNew,
		MaxConsumers:       b.MaxConsumers,
		MaxMsgs:            -1,
		MaxBytes:           b.MaxBytes,
		MaxMsgsPerSubject:  1,
		MaxMsgSize:         b.MaxMessageSize,
		MaxAge:             b.MaxAge,
		Storage:            jetstream.FileStorage,
		Replicas:           1,
		Duplicates:         wire.DuplicateWindow,
		DenyDelete:         true,
		AllowDirect:        true,
		AllowMsgTTL:        b.TTL,
		AllowAtomicPublish: b.AtomicPublish,
	}
	if b.LazySync {
		config.PersistMode = jetstream.AsyncPersistMode
	}
	if b.Republish != "" {
		config.RePublish = &jetstream.RePublish{Source: b.Subjects(), Destination: b.Republish + ".>"}
	}
	return config
}
