package callout

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4/json"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// ErrDenied says that who asks may not connect, whatever is tried again. Every
// other error says that it could not be found out.
var ErrDenied = errors.New("denied")

// denied is an ErrDenied that says why.
func denied(format string, values ...any) error {
	return fmt.Errorf("%w: %s", ErrDenied, wire.CleanText(fmt.Sprintf(format, values...), wire.MaxMessage))
}

// Role is what a token lets its bearer be.
type Role string

// The roles, by the names that they have at the provider.
const (
	RoleDevice   Role = "device"
	RoleOperator Role = "fleet-operator"
	RoleAdmin    Role = "fleet-admin"
)

// Identity is who asks, as far as it is proven.
type Identity struct {
	Role Role
	// Device is set for RoleDevice alone.
	Device wire.DeviceID
	// Name is that of the bearer at the provider, for logs.
	Name string
	// Expires is when the proof does.
	Expires time.Time
}

// identify reads the claims of a token whose signature, issuer and audience are
// checked, and from when on it is valid. It fails with ErrDenied.
func identify(o config.OIDCSection, claims []byte) (id Identity, notBefore time.Time, err error) {
	// This decoder refuses a name that is there twice: which one counts would be
	// a matter of taste.
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(claims, &fields); err != nil {
		return id, notBefore, denied("claims of the token: %v", err)
	}
	if id.Expires, err = timeOf(fields["exp"]); err != nil {
		return id, notBefore, denied("claim exp: %v", err)
	}
	if begin, there := fields["nbf"]; there {
		if notBefore, err = timeOf(begin); err != nil {
			return id, notBefore, denied("claim nbf: %v", err)
		}
	}
	if err := json.Unmarshal(fields[o.NameClaim], &id.Name); err != nil || id.Name == "" {
		return id, notBefore, denied("claim %q is no text, or missing", o.NameClaim)
	}
	if id.Role, err = roleOf(fields[o.RolesClaimName()]); err != nil {
		return id, notBefore, denied("claim %q of %q: %v", o.RolesClaimName(), id.Name, err)
	}
	if id.Role == RoleDevice {
		text, found := strings.CutPrefix(id.Name, o.DevicePrefix)
		if !found {
			return id, notBefore, denied("claim %q is %q, and a device's begins with %q", o.NameClaim, id.Name, o.DevicePrefix)
		}
		if id.Device, err = wire.ParseDeviceID(text); err != nil {
			return id, notBefore, denied("claim %q: %v", o.NameClaim, err)
		}
	}
	return id, notBefore, nil
}

// timeOf reads a number of seconds since 1970, which may have a fraction.
func timeOf(claim json.RawMessage) (time.Time, error) {
	var seconds float64
	if err := json.Unmarshal(claim, &seconds); err != nil || seconds <= 0 || seconds > maxSeconds {
		return time.Time{}, errors.New("not a time, or missing")
	}
	return time.Unix(int64(seconds), 0), nil
}

// maxSeconds is the year 9999: beyond, arithmetic with times overflows.
const maxSeconds = 253_402_300_799

// roleOf finds the one role of the fleet in a claim: a list of names, or an object
// that has them as its keys, as Zitadel writes it.
func roleOf(claim json.RawMessage) (Role, error) {
	var names []string
	if err := json.Unmarshal(claim, &names); err != nil {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(claim, &object); err != nil || object == nil {
			return "", errors.New("neither a list nor an object of roles")
		}
		for name := range object {
			names = append(names, name)
		}
	}
	var roles []Role
	for _, role := range []Role{RoleDevice, RoleOperator, RoleAdmin} {
		if slices.Contains(names, string(role)) {
			roles = append(roles, role)
		}
	}
	if len(roles) != 1 {
		return "", fmt.Errorf("%d of the fleet's roles, want exactly one", len(roles))
	}
	return roles[0], nil
}
