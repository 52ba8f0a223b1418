package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/mod/semver"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// The oldest servers without known holes, of the current line and of 2.12.
const (
	oldestServer   = "v2.14.3"
	oldestServer12 = "v2.12.12"
)

// Verify checks that the broker is fit for the fleet: that the server is new
// enough, and that the stream behind each bucket exists and has the shape that
// the fleet relies on. Each problem that it finds names what was found, what is
// wanted and what to do. Sizes are the installation's own business.
func (c *Conn) Verify(ctx context.Context) error {
	if !c.Connected() {
		return fmt.Errorf("checking the broker: %w", ErrDisconnected)
	}
	if err := checkVersion(c.nc.ConnectedServerVersion()); err != nil {
		return err // an old server cannot have the shape either
	}
	var problems []error
	for _, b := range wire.Buckets() {
		info, err := c.info(ctx, b)
		switch {
		case err == nil:
			problems = append(problems, checkShape(info.Config, StreamConfig(b))...)
		case errors.Is(err, jetstream.ErrStreamNotFound):
			problems = append(problems, fmt.Errorf("stream %q of bucket %q does not exist: create it; "+
				"with the chart, its Stream resource and NACK do so", b.Stream(), b.Name))
		case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
			return fmt.Errorf("JetStream is off: switch it on in the broker, for the account of user %q: %w", c.options.Credentials.User, err)
		default:
			return fmt.Errorf("checking the broker: %w", errors.Join(append(problems, err)...))
		}
	}
	return errors.Join(problems...)
}

func checkVersion(found string) error {
	v := "v" + found
	if semver.Compare(v, oldestServer) >= 0 || semver.MajorMinor(v) == "v2.12" && semver.Compare(v, oldestServer12) >= 0 {
		return nil
	}
	return fmt.Errorf("the broker runs nats-server %q: upgrade it to at least %s, or to %s within 2.12",
		found, oldestServer[1:], oldestServer12[1:])
}

// field is one setting of a stream, under the name that the server's tools use.
type field struct {
	name        string
	found, want any
	ok          bool
}

func exactly[T comparable](name string, found, want T) field {
	return field{name, found, want, found == want}
}

// checkShape returns a problem for each setting that would break the fleet.
func checkShape(found, want jetstream.StreamConfig) []error {
	durable := want.PersistMode == jetstream.DefaultPersistMode
	fields := []field{
		exactly("subjects", fmt.Sprint(found.Subjects), fmt.Sprint(want.Subjects)),
		exactly("retention", found.Retention, want.Retention),
		exactly("discard", found.Discard, want.Discard),
		exactly("max_msgs_per_subject", found.MaxMsgsPerSubject, want.MaxMsgsPerSubject),
		exactly("allow_rollup_hdrs", found.AllowRollup, want.AllowRollup),
		exactly("allow_direct", found.AllowDirect, want.AllowDirect),
		exactly("allow_atomic", found.AllowAtomicPublish, want.AllowAtomicPublish),
		exactly("subject_transform", found.SubjectTransform != nil, false),
		exactly("sealed", found.Sealed, want.Sealed),
		exactly("no_ack", found.NoAck, want.NoAck),
		{"allow_msg_ttl", found.AllowMsgTTL, want.AllowMsgTTL, found.AllowMsgTTL || !want.AllowMsgTTL},
		{"max_msg_size", found.MaxMsgSize, want.MaxMsgSize, found.MaxMsgSize <= 0 || found.MaxMsgSize >= want.MaxMsgSize},
		// Without it agents hear nothing of another with their device id, and as
		// little as before there was such a thing.
		{"republish", republish(found), republish(want), republish(found) == republish(want) || found.RePublish == nil && !durable},
		// What expires or is not on the disk is lost, unless it may be.
		{"max_age", found.MaxAge, want.MaxAge, found.MaxAge == 0 || want.MaxAge != 0},
		{"storage", found.Storage, want.Storage, found.Storage == want.Storage || !durable},
		{"persist_mode", found.PersistMode, want.PersistMode, found.PersistMode == want.PersistMode || !durable},
	}
	var problems []error
	for _, f := range fields {
		if !f.ok {
			problems = append(problems, fmt.Errorf("stream %q: %s is %v, want %v: change it where the stream is made; "+
				"with the chart, in its Stream resource", want.Name, f.name, f.found, f.want))
		}
	}
	return problems
}

// republish leaves out whether only headers are sent: it is a hint either way.
func republish(c jetstream.StreamConfig) string {
	if c.RePublish == nil {
		return "off"
	}
	return fmt.Sprintf("%s to %s", c.RePublish.Source, c.RePublish.Destination)
}
