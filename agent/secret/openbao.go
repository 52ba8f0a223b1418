package secret

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/openbao/openbao/api/v2"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	// requestTimeout bounds one exchange.
	requestTimeout = 20 * time.Second
	// doubt is how old a login must be for a refusal to have it made anew: it may
	// have ended, or be of a time before the device was enrolled.
	doubt = 5 * time.Second
	// maxReason bounds what is repeated of OpenBao's words about a login.
	maxReason = 300
)

// Tokens has the tokens by which an OpenID provider says which device this is.
type Tokens interface {
	Token(ctx context.Context) (string, error)
}

// reader reads secrets with the device's own login. One goroutine uses it.
type reader struct {
	config v1alpha1.SecretsSection
	tokens Tokens

	client  *api.Client // nil before the first login
	since   time.Time   // when it logged in
	life    time.Duration
	renewAt time.Time
}

// refusal is OpenBao's no to a login, and told an error before OpenBao was asked;
// both are in words for people.
type refusal struct{ error }
type told struct{ error }

// read asks for a secret. An error says that there was no answer, and never what a
// secret is: nothing of what OpenBao says about one is repeated.
func (r *reader) read(ctx context.Context, ref secret.Ref) (answer, error) {
	err := r.logIn(ctx, false)
	var found *api.KVSecret
	if err == nil {
		found, err = r.get(ctx, ref)
		if status(err) == http.StatusForbidden && time.Since(r.since) > doubt {
			if err = r.logIn(ctx, true); err == nil {
				found, err = r.get(ctx, ref)
			}
		}
	}
	var no refusal
	switch code := status(err); {
	case errors.As(err, &no):
		return answer{refused: no.Error()}, nil
	case errors.Is(err, api.ErrSecretNotFound), code == http.StatusNotFound:
		return answer{missing: true}, nil
	case code == http.StatusForbidden:
		return answer{refused: "OpenBao does not let this device read it; see whether the device is enrolled there, and the operator's log"}, nil
	case code >= 400 && code < 500 && code != http.StatusTooManyRequests:
		return answer{refused: fmt.Sprintf("OpenBao answers with status %d; check [openbao] mount", code)}, nil
	case err != nil:
		return answer{}, r.explain(err)
	case found.Data == nil: // the last version is deleted
		return answer{missing: true}, nil
	case found.VersionMetadata == nil || found.VersionMetadata.Version < 1:
		return answer{}, r.explain(errors.New("there is no version"))
	}
	version := fmt.Sprintf("%d %s", found.VersionMetadata.Version, found.VersionMetadata.CreatedTime.UTC().Format(time.RFC3339Nano))
	return answer{version: reconcile.SecretVersion(version), values: found.Data}, nil
}

func (r *reader) get(ctx context.Context, ref secret.Ref) (*api.KVSecret, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return r.client.KVv2(r.config.Mount).Get(ctx, ref.Path())
}

// logIn makes a login unless the one at hand is good for a while; with anew, in any
// case. Files are read each time: what is in them may have been renewed.
func (r *reader) logIn(ctx context.Context, anew bool) error {
	if r.client != nil && !anew && time.Now().Before(r.renewAt) {
		return nil
	}
	token, err := r.tokens.Token(ctx)
	if err != nil {
		return told{fmt.Errorf("getting a token for OpenBao: %w", err)}
	}
	client, err := r.dial()
	if err != nil {
		return told{err}
	}
	r.close()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	begin := time.Now()
	got, err := client.Logical().WriteWithContext(ctx, "auth/"+r.config.LoginMount+"/login", map[string]any{"role": r.config.LoginRole, "jwt": token})
	if code := status(err); code >= 400 && code < 500 && code != http.StatusTooManyRequests {
		client.CloneConfig().HttpClient.CloseIdleConnections()
		return refusal{fmt.Errorf("OpenBao refuses this device's login as role %q; check [openbao] login_mount and login_role, and the role's audiences: %s", r.config.LoginRole, reason(err, token))}
	}
	if err == nil && (got == nil || got.Auth == nil) {
		err = errors.New("the answer to the login has no token")
	}
	if err != nil {
		client.CloneConfig().HttpClient.CloseIdleConnections()
		return err
	}
	client.SetToken(got.Auth.ClientToken)
	life := time.Duration(got.Auth.LeaseDuration) * time.Second
	if life <= 0 { // it does not end
		life = time.Hour
	}
	r.client, r.since, r.life, r.renewAt = client, begin, life, begin.Add(life*2/3)
	return nil
}

// dial makes a client that has no token yet.
func (r *reader) dial() (*api.Client, error) {
	config := api.NewConfig() // not DefaultConfig, which lets the environment decide
	if config.Error != nil {
		return nil, fmt.Errorf("making a client of OpenBao: %w", config.Error)
	}
	config.Address, config.Timeout, config.MaxRetries = r.config.Address, requestTimeout, 0
	if err := config.ConfigureTLS(&api.TLSConfig{CACert: r.config.CAFile}); err != nil {
		return nil, fmt.Errorf("[openbao] ca_file: %w", err)
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of OpenBao: %w", err)
	}
	return client, nil
}

// close forgets the login and ends idle connections.
func (r *reader) close() {
	if r.client != nil {
		r.client.ClearToken()
		r.client.CloneConfig().HttpClient.CloseIdleConnections()
	}
	r.client = nil
}

// status of a refusal; 0 for anything else.
func status(err error) int {
	var refused *api.ResponseError
	if errors.As(err, &refused) {
		return refused.StatusCode
	}
	return 0
}

// reason is what OpenBao says of a login, at which no secret was read yet.
func reason(err error, token string) string {
	var refused *api.ResponseError
	if !errors.As(err, &refused) || len(refused.Errors) == 0 {
		return fmt.Sprintf("it answers with status %d", status(err))
	}
	return wire.CleanText(strings.ReplaceAll(strings.Join(refused.Errors, "; "), token, "…"), maxReason)
}

// explain says why there was no answer.
func (r *reader) explain(err error) error {
	var (
		own       told
		transport *url.Error
		operation *net.OpError
	)
	address := r.config.Address
	switch code := status(err); {
	case errors.As(err, &own):
		return own.error
	case code != 0:
		return fmt.Errorf("OpenBao at %s is not well, or is not one: it answers with status %d", address, code)
	case errors.As(err, &transport) && transport.Timeout():
		return fmt.Errorf("OpenBao at %s does not answer; check the network and firewalls between", address)
	case errors.As(err, &operation):
		// Without the port of this side, which would make every failure a new one.
		return fmt.Errorf("OpenBao at %s cannot be reached; check [openbao] address and whether it runs: %s: %w", address, operation.Op, operation.Err)
	case transport != nil:
		return fmt.Errorf("OpenBao at %s cannot be reached; check [openbao] address and ca_file: %w", address, transport.Err)
	}
	return fmt.Errorf("OpenBao at %s answers what cannot be read; check [openbao] address and mount", address)
}
