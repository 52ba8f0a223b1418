package v1alpha1

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// CalloutConfig is the configuration file of fleet-callout, in YAML.
type CalloutConfig struct {
	// NATS says how to reach the broker, Credentials as whom: a user of the
	// account that the broker's auth_callout names, and one of its auth_users.
	NATS        NATSSection `json:"nats"`
	Credentials Credentials `json:"credentials"`
	// IssuerKeyFile holds the seed of an account nkey ("SA…"), whose public part
	// is the broker's auth_callout issuer.
	IssuerKeyFile string `json:"issuerKeyFile"`
	// XKeyFile holds the seed of a curve nkey ("SX…"), whose public part is the
	// broker's auth_callout xkey: without it tokens would cross the broker in
	// clear.
	XKeyFile string `json:"xkeyFile"`
	// OIDC is the provider of tokens; without an issuer devices log in by keys of
	// their own alone.
	OIDC OIDCSection `json:"oidc"`
	// OpenBao has the policies; without an address the cluster has them, as Roster
	// says.
	OpenBao OpenBaoSection `json:"openbao"`
	Roster  RosterSection  `json:"roster"`
	// SessionMax bounds a connection: it ends then, or with the token, whichever
	// is sooner, and the device connects anew.
	SessionMax Duration `json:"sessionMax"`
	// Workers decide at the same time; further requests wait.
	Workers int `json:"workers"`
	// MetricsAddress and ProbeAddress to listen on; "0" switches one off.
	MetricsAddress string `json:"metricsAddress"`
	ProbeAddress   string `json:"probeAddress"`
	// LogLevel is debug, info, warn or error.
	LogLevel string `json:"logLevel"`
}

// OIDCSection says whose tokens count, and what they say.
type OIDCSection struct {
	// Issuer of the tokens, exactly as they spell it; "" for none.
	Issuer string `json:"issuer,omitempty"`
	// CAFile holds the certificates to trust at the issuer instead of the system's.
	CAFile string `json:"caFile,omitempty"`
	// Audience that a token must have: with Zitadel the id of the project.
	Audience string `json:"audience,omitempty"`
	// NameClaim holds the name of the bearer; that of a device is DevicePrefix and
	// the device id.
	NameClaim    string `json:"nameClaim"`
	DevicePrefix string `json:"devicePrefix"`
	// RolesClaim holds the roles, as a list or as the keys of an object; "" means
	// the claim in which Zitadel has those of the project that is the audience.
	RolesClaim string `json:"rolesClaim,omitempty"`
	// MaxStale is how long an outage of the issuer cuts no device off: its keys are
	// used that long, and tokens that long after they expired. Then nobody is let
	// in.
	MaxStale Duration `json:"maxStale"`
}

// RolesClaimName is the claim that holds the roles.
func (o OIDCSection) RolesClaimName() string {
	return cmp.Or(o.RolesClaim, "urn:zitadel:iam:org:project:"+o.Audience+":roles")
}

// CalloutDefaults is what holds where the file is silent.
func CalloutDefaults() CalloutConfig {
	policies := RosterDefaults()
	policies.Enabled = true
	return CalloutConfig{
		Roster:         policies,
		OIDC:           OIDCSection{NameClaim: "client_id", DevicePrefix: "device-", MaxStale: Duration(24 * time.Hour)},
		OpenBao:        OpenBaoDefaults(),
		SessionMax:     Duration(time.Hour),
		Workers:        32,
		MetricsAddress: ":8080",
		ProbeAddress:   ":8081",
		LogLevel:       "info",
	}
}

// Validate reports everything that is wrong, each error naming the field.
func (c CalloutConfig) Validate() error {
	var errs []error
	if err := c.NATS.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("nats: %w", err))
	}
	if err := c.Credentials.validateInCluster(); err != nil {
		errs = append(errs, fmt.Errorf("credentials: %w", err))
	}
	if c.IssuerKeyFile == "" {
		errs = append(errs, errors.New("issuerKeyFile: missing; a file with the seed of an account nkey"))
	}
	if c.XKeyFile == "" {
		errs = append(errs, errors.New("xkeyFile: missing; a file with the seed of a curve nkey"))
	}
	if err := c.OIDC.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("oidc: %w", err))
	}
	if err := validPolicies(c.OpenBao, c.Roster); err != nil {
		errs = append(errs, err)
	} else if c.OpenBao.Address == "" && !c.Roster.Enabled {
		errs = append(errs, errors.New("openbao.address: missing; or set roster.enabled, to have the cluster keep the policies of devices"))
	}
	if c.SessionMax < Duration(time.Minute) {
		errs = append(errs, errors.New("sessionMax: must be at least 1m"))
	}
	if c.Workers < 1 || c.Workers > 1000 {
		errs = append(errs, errors.New("workers: must be 1 to 1000"))
	}
	if err := validLogLevel(c.LogLevel); err != nil {
		errs = append(errs, fmt.Errorf("logLevel: %w", err))
	}
	return errors.Join(errs...)
}

// keysMaxAge is how long the issuer's keys are used without asking for them.
const keysMaxAge = 10 * time.Minute

// Validate reports what is wrong with the section.
func (o OIDCSection) Validate() error {
	if o.Issuer == "" {
		if o.Audience != "" || o.CAFile != "" {
			return errors.New("issuer: missing, and audience or caFile says that there is one")
		}
		return nil
	}
	if err := validHTTP(o.Issuer); err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	if o.Audience == "" {
		return errors.New("audience: missing; with Zitadel the id of the project")
	}
	if o.MaxStale < Duration(keysMaxAge) {
		return fmt.Errorf("maxStale: must be at least %s", keysMaxAge)
	}
	if o.NameClaim == "" {
		return errors.New("nameClaim: must not be empty")
	}
	return nil
}
