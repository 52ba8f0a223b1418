package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/nationtech/harmony-fleet/apis/policy"
)

// ErrNotEnrolled says that the broker did not take a token of enrolment. It does
// not say why, and it says the same while it cannot find out.
var ErrNotEnrolled = errors.New("the broker did not take the token of enrolment")

// Join shows the broker a token of enrolment, and signs with the key of the
// device's Credentials, of the type nkey. Without an error that key is known as the
// device's from now on. It may be repeated with the same key and token. It fails
// with ErrNotEnrolled, or says what to do about a broker that cannot be asked.
func Join(ctx context.Context, to Target, token policy.Token) error {
	_, nc, err := dial(ctx, to, nats.Token(token.Text()))
	if errors.Is(err, nats.ErrAuthorization) {
		return fmt.Errorf("%w at %s", ErrNotEnrolled, to.NATS.URLs)
	}
	if err != nil {
		return err
	}
	nc.Close()
	return nil
}
