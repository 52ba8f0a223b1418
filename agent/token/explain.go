package token

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// maxReason bounds what is repeated of the provider's words.
const maxReason = 300

// outage is a failure that says nothing about the credentials: the provider was
// not reached, or is not well.
type outage struct{ error }

// Unwrap is what errors.Is looks into.
func (o outage) Unwrap() error { return o.error }

// answer is what the library does not hand on of the provider's last answer.
type answer struct {
	code   int
	status string
	date   time.Time
}

// witness notes the answers that pass.
type witness struct {
	http.RoundTripper
	last *answer
}

// RoundTrip implements http.RoundTripper.
func (w *witness) RoundTrip(request *http.Request) (*http.Response, error) {
	*w.last = answer{}
	response, err := w.RoundTripper.RoundTrip(request)
	if err == nil {
		date, _ := http.ParseTime(response.Header.Get("Date")) // the zero time else
		*w.last = answer{code: response.StatusCode, status: response.Status, date: date}
	}
	return response, err
}

// explain says what a failure means and what to do about it, for a person who has
// the agent's configuration in front of them. Of the provider's answer it repeats
// the error alone, and of that no secret: the rest may hold a token.
func (q *question) explain(err error, secrets ...string) error {
	issuer := q.credentials.Issuer
	var (
		refusal   *oidc.Error
		transport *url.Error
	)
	switch {
	case errors.Is(err, oidc.ErrIssuerInvalid):
		return outage{fmt.Errorf("the OpenID provider at %s speaks for another issuer; write [credentials] issuer exactly as its discovery document has it", issuer)}
	case errors.As(err, &transport):
		return outage{q.unreachable(transport.Err)}
	case errors.As(err, &refusal) && q.answer.code < http.StatusInternalServerError && q.answer.code != http.StatusTooManyRequests:
		reason := string(refusal.ErrorType)
		if refusal.Description != "" {
			reason += ": " + refusal.Description
		}
		for _, secret := range secrets {
			reason = strings.ReplaceAll(reason, secret, "…")
		}
		return fmt.Errorf("the OpenID provider at %s refused %s: %s", issuer, q.who(), wire.CleanText(reason, maxReason))
	case q.answer.code != 0 && q.answer.code != http.StatusOK:
		return outage{fmt.Errorf("the OpenID provider at %s is not well, or is not one; check [credentials] issuer: it answers %s", issuer, wire.CleanText(q.answer.status, maxReason))}
	}
	return outage{fmt.Errorf("the OpenID provider at %s answers what cannot be read; check [credentials] issuer", issuer)}
}

// who is what the provider was shown, and where to look.
func (q *question) who() string {
	if q.signs() {
		return "the key in [credentials] key_file; see whether the machine user still has that key, and has it in the audience's project"
	}
	return fmt.Sprintf("[credentials] client_id %q with the secret in client_secret_file, or the scopes", q.credentials.ClientID)
}

// unreachable explains why there was no answer.
func (q *question) unreachable(err error) error {
	issuer := q.credentials.Issuer
	var (
		dns       *net.DNSError
		operation *net.OpError
		network   net.Error
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &dns):
		return fmt.Errorf("the host name of the OpenID provider at %s cannot be resolved; check [credentials] issuer and the device's DNS: %w", issuer, err)
	case errors.As(err, &authority):
		return fmt.Errorf("the certificate of the OpenID provider at %s is signed by nobody whom this device trusts; set [credentials] ca_file: %w", issuer, err)
	case errors.As(err, &hostname):
		return fmt.Errorf("the certificate of the OpenID provider at %s is for another host; check [credentials] issuer: %w", issuer, err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("the certificate of the OpenID provider at %s is not valid at this time; check the device's clock, then the certificate: %w", issuer, err)
	case errors.As(err, &network) && network.Timeout():
		return fmt.Errorf("the OpenID provider at %s does not answer; check the network and firewalls between", issuer)
	}
	// The port of this side, which differs each time, would make every failure a
	// new one.
	if errors.As(err, &operation) {
		err = fmt.Errorf("%s: %w", operation.Op, operation.Err)
	}
	return fmt.Errorf("the OpenID provider at %s cannot be reached; check [credentials] issuer and whether it runs: %w", issuer, err)
}
