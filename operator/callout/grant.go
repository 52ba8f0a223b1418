package callout

import (
	"errors"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// grant is what an identity may do, and in which account.
func grant(id Identity) (account string, permissions wire.Permissions, err error) {
	switch id.Role {
	case RoleDevice:
		return wire.AccountDevices, wire.DevicePermissions(id.Device), nil
	case RoleOperator:
		return wire.AccountFleet, wire.OperatorPermissions(), nil
	case RoleAdmin:
		return wire.AccountFleet, wire.AdminPermissions(), nil
	}
	return "", wire.Permissions{}, denied("unknown role %q", id.Role)
}

// session is one connection as the broker is to know it.
type session struct {
	// name of the bearer, and user, the key that the broker made for the
	// connection.
	name, user  string
	account     string
	until       time.Time
	permissions wire.Permissions
}

// encode is the user JWT: exactly the permissions, until the session is over.
func (s session) encode(issuer nkeys.KeyPair) (string, error) {
	if len(s.permissions.Publish) == 0 || len(s.permissions.Subscribe) == 0 {
		return "", errors.New("empty permissions would permit everything")
	}
	claims := jwt.NewUserClaims(s.user)
	claims.Name, claims.Audience, claims.Expires = s.name, s.account, s.until.Unix()
	claims.AllowedConnectionTypes = jwt.StringList{jwt.ConnectionTypeStandard}
	claims.Pub.Allow, claims.Sub.Allow = s.permissions.Publish, s.permissions.Subscribe
	if s.permissions.Responses > 0 {
		claims.Resp = &jwt.ResponsePermission{MaxMsgs: s.permissions.Responses, Expires: s.permissions.ResponseTTL}
	}
	// The bounds of subscriptions and payload are the account's: a broker with
	// accounts in its configuration ignores those of a user JWT, and its networks.
	return claims.Encode(issuer)
}
