package callout

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"time"

	"github.com/go-logr/logr"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/util/cache"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// maxKnown bounds the tokens that are remembered as verified.
const maxKnown = 100_000

// minSession is the shortest session worth to begin: a proof that runs out sooner
// is denied, and the device brings a fresh one.
const minSession = 5 * time.Second

// judge decides who may connect, and as what.
type judge struct {
	config   config.CalloutConfig
	tokens   *tokens // nil without a provider
	policies Policies
	// enrolments is nil where nobody is enrolled; joins bounds how often it is asked.
	enrolments Enrolments
	joins      *rate.Limiter
	issuer     nkeys.KeyPair
	now        func() time.Time
	log        logr.Logger
	// known has identities of verified tokens until they expire, by the hash of
	// the token: a fleet that comes back brings the tokens that it had.
	known *cache.LRUExpireCache
}

// proven is an identity with what proved it.
type proven struct {
	Identity
	nkey string // the device's own key; "" when a token proved it
	// joins says that it was enrolled by this very request, so its policy was read.
	joins bool
}

// decide answers one request of the broker. It fails with ErrDenied, or because it
// could not be found out.
func (j *judge) decide(ctx context.Context, request *jwt.AuthorizationRequest) (who Identity, user string, err error) {
	p, err := j.prove(ctx, request)
	if err != nil {
		return Identity{}, "", err
	}
	account, permissions, err := grant(p.Identity)
	if err != nil {
		return p.Identity, "", err
	}
	if p.Role == RoleDevice && !p.joins {
		if err := j.consult(ctx, p, request.ClientInformation.Host); err != nil {
			return p.Identity, "", err
		}
	}
	until := j.now().Add(time.Duration(j.config.SessionMax))
	if p.Expires.Before(until) {
		until = p.Expires
	}
	if until.Sub(j.now()) < minSession {
		return p.Identity, "", denied("%q brings a proof that expires at %s, and this clock shows %s", p.Name, written(p.Expires), written(j.now()))
	}
	s := session{name: p.Name, account: account, user: request.UserNkey, until: until, permissions: permissions}
	user, err = s.encode(j.issuer)
	return p.Identity, user, err
}

// prove finds out who asks: by a token of the provider, by the key of a device, or
// by both a token of enrolment and the key to enrol.
func (j *judge) prove(ctx context.Context, request *jwt.AuthorizationRequest) (proven, error) {
	switch o := request.ConnectOptions; {
	case policy.IsToken(o.Token):
		return j.proveByEnrolment(ctx, request)
	case o.Token != "" && o.Nkey != "":
		return proven{}, denied("a token and a key: want one of them")
	case o.Token != "" && j.tokens == nil:
		return proven{}, denied("a token, and there is no provider of tokens: oidc.issuer is not set")
	case o.Token != "":
		hash := sha256.Sum256([]byte(o.Token))
		if known, found := j.known.Get(hash); found {
			return proven{Identity: known.(Identity)}, nil
		}
		id, err := j.tokens.identity(ctx, o.Token)
		if err == nil {
			j.known.Add(hash, id, id.Expires.Sub(j.now()))
		}
		return proven{Identity: id}, err
	case o.Nkey != "":
		return j.proveKey(o, request.ClientInformation.Nonce)
	}
	return proven{}, denied("neither a token nor a key")
}

// proveKey checks that who asks has the key that it names, and that the user name
// is a device id. Whether it is that device's key, its policy says.
func (j *judge) proveKey(o jwt.ConnectOptions, nonce string) (proven, error) {
	device, err := wire.ParseDeviceID(o.Username)
	if err != nil {
		return proven{}, denied("user name: %v", err)
	}
	signature, err := base64.RawURLEncoding.DecodeString(o.SignedNonce)
	if err != nil {
		return proven{}, denied("signature of device %q: %v", device, err)
	}
	if !nkeys.IsValidPublicUserKey(o.Nkey) {
		return proven{}, denied("device %q names a key that is not a user's", device)
	}
	key, err := nkeys.FromPublicKey(o.Nkey)
	if err != nil || nonce == "" || key.Verify([]byte(nonce), signature) != nil {
		return proven{}, denied("device %q did not sign with the key that it names", device)
	}
	return proven{nkey: o.Nkey, Identity: Identity{
		Role: RoleDevice, Device: device, Name: j.config.OIDC.DevicePrefix + string(device),
		Expires: j.now().Add(time.Duration(j.config.SessionMax)),
	}}, nil
}

// consult asks the device's policy whether it may connect from that address.
func (j *judge) consult(ctx context.Context, p proven, address string) error {
	decided, err := j.policies.Policy(ctx, p.Device)
	if err == nil && p.nkey != "" && p.nkey != decided.NKey && j.enrolments != nil {
		decided, err = j.enrolments.Recent(ctx, p.Device)
	}
	switch {
	case errors.Is(err, policy.ErrNone), errors.Is(err, policy.ErrRevoked), errors.Is(err, policy.ErrMalformed):
		return denied("device %q: %v", p.Device, err)
	case err != nil:
		return err
	case p.nkey != "" && p.nkey != decided.NKey:
		return denied("device %q brings a key that its policy does not name", p.Device)
	case !decided.From(address):
		return denied("device %q connects from %s, outside of the networks of its policy", p.Device, address)
	}
	return nil
}
