package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Entry is what a bucket holds under a key.
type Entry struct {
	// Key as it is stored: raw clients can store any bytes but white space.
	Key string
	// Value is only valid during the call that hands it over.
	Value []byte
	// Deleted marks a deletion; it has no value.
	Deleted bool
	// Sequence of the message in the stream, and the time At which it was stored.
	Sequence uint64
	At       time.Time
}

// StreamState tells one life of a stream from another.
type StreamState struct {
	// Created is when the stream was created.
	Created time.Time
	// LastSequence given to a message; it goes back only when messages are lost.
	LastSequence uint64
}

// State asks for the state of the stream behind a bucket.
func (c *Conn) State(ctx context.Context, b wire.Bucket) (StreamState, error) {
	info, err := c.info(ctx, b)
	if err != nil {
		return StreamState{}, err
	}
	return StreamState{Created: info.Created, LastSequence: info.State.LastSeq}, nil
}

func (c *Conn) info(ctx context.Context, b wire.Bucket) (info *jetstream.StreamInfo, err error) {
	wanted := fmt.Sprintf("reading the state of stream %q", b.Stream())
	err = c.request(ctx, wanted, func(ctx context.Context) error {
		stream, err := c.js.Stream(ctx, b.Stream())
		if err == nil {
			info = stream.CachedInfo()
		}
		return err
	})
	return info, err
}

// Purge removes a key for good, its deletion marker too, up to and with the
// message of that sequence: what was written later stays.
func (c *Conn) Purge(ctx context.Context, b wire.Bucket, key string, through uint64) error {
	wanted := fmt.Sprintf("purging key %q of bucket %q", key, b.Name)
	if key == "" || strings.ContainsAny(key, "*>") {
		return fmt.Errorf("%s: the broker would take it as a pattern for other keys", wanted)
	}
	return c.purge(ctx, wanted, b, purge{Filter: b.Subject(key), Before: through + 1})
}

// PurgeDevice removes all that a device wrote, for good: what it is, its last
// sign of life and its states. Desired state stays.
func (c *Conn) PurgeDevice(ctx context.Context, id wire.DeviceID) error {
	key := wire.DeviceKey(id)
	for bucket, filter := range map[wire.Bucket]string{
		wire.DeviceInfos:      wire.DeviceInfos.Subject(key),
		wire.DeviceHeartbeats: wire.DeviceHeartbeats.Subject(key),
		wire.DeviceStates:     wire.DeviceStates.Subject(key) + ".*.*",
	} {
		wanted := fmt.Sprintf("purging device %q from bucket %q", id, bucket.Name)
		if err := c.purge(ctx, wanted, bucket, purge{Filter: filter}); err != nil {
			return err
		}
	}
	return nil
}

// PurgeStates removes all states of a device for good, up to and with the message
// of that sequence: what was written later stays.
func (c *Conn) PurgeStates(ctx context.Context, id wire.DeviceID, through uint64) error {
	wanted := fmt.Sprintf("purging the states of device %q", id)
	return c.purge(ctx, wanted, wire.DeviceStates, purge{Filter: wire.DeviceStates.Subject(wire.DeviceKey(id)) + ".>", Before: through + 1})
}

func (c *Conn) purge(ctx context.Context, wanted string, b wire.Bucket, what purge) error {
	body, err := json.Marshal(what)
	if err != nil {
		return fmt.Errorf("%s: %w", wanted, err)
	}
	return c.request(ctx, wanted, func(ctx context.Context) error {
		answer, err := c.nc.RequestWithContext(ctx, "$JS.API.STREAM.PURGE."+b.Stream(), body)
		if err != nil {
			return err
		}
		return refusedBy(answer)
	})
}

// purge is the body of a purge request: of what matches the filter, before the
// sequence; 0 means all.
type purge struct {
	Filter string `json:"filter"`
	Before uint64 `json:"seq,omitempty"`
}

// refusedBy is the error in a JetStream answer; nil when it has none.
func refusedBy(answer *nats.Msg) error {
	if len(answer.Data) == 0 && answer.Header.Get("Status") == "503" {
		return nats.ErrNoResponders
	}
	var body struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &body); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if body.Error != nil {
		return body.Error
	}
	return nil
}

// Errors of Request.
var (
	// ErrDeviceOffline says that no agent listens for the device's commands.
	ErrDeviceOffline = errors.New("device is offline: no agent answers on the broker")
	// ErrTimeout says that the agent is connected and did not answer in time.
	ErrTimeout = errors.New("device did not answer in time")
)

// Request sends a command to a device and returns the answer, as the agent sent
// it. It fails with ErrDeviceOffline, at once, with ErrTimeout after
// wire.CommandTimeout, or with ErrDisconnected.
func (c *Conn) Request(ctx context.Context, id wire.DeviceID, verb wire.Verb, body []byte) ([]byte, error) {
	ctx, cancel := c.whileConnected(ctx)
	defer cancel()
	ctx, cancelTimeout := context.WithTimeout(ctx, wire.CommandTimeout)
	defer cancelTimeout()
	explain := c.explainer()
	answer, err := c.nc.RequestWithContext(ctx, wire.CommandSubject(id, verb), body)
	switch {
	case err == nil:
		return answer.Data, nil
	case errors.Is(err, nats.ErrNoResponders):
		err = ErrDeviceOffline
	case errors.Is(err, context.DeadlineExceeded):
		err = explain(ctx, ErrTimeout)
	default:
		err = explain(ctx, err)
	}
	return nil, fmt.Errorf("sending %s to device %q: %w", verb, id, err)
}
