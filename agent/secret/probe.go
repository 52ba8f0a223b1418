package secret

import (
	"context"
	"errors"
	"time"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

// Probe logs in to OpenBao once, and tells how long that is good. Its errors say
// what to do.
func Probe(ctx context.Context, config v1alpha1.SecretsSection, tokens Tokens) (time.Duration, error) {
	if why := barred(Options{Config: config, Tokens: tokens}); why != "" {
		return 0, errors.New(why)
	}
	r := reader{config: config, tokens: tokens}
	defer r.close()
	if err := r.logIn(ctx, true); err != nil {
		var no refusal
		if errors.As(err, &no) {
			return 0, no
		}
		return 0, r.explain(err)
	}
	return r.life, nil
}
