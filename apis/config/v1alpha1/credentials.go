package v1alpha1

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// CredentialType tells the kinds of credentials apart.
type CredentialType string

const (
	// CredentialPassword is a user name and a password of the broker's own.
	CredentialPassword CredentialType = "password"
	// CredentialNKey is a key of the program's own, which never leaves it: the
	// broker, or its auth callout, knows the public part.
	CredentialNKey CredentialType = "nkey"
	// CredentialZitadelJWT is the key of a machine user of Zitadel, which never
	// leaves the device: what it signs is changed for tokens, and those are shown
	// to the broker.
	CredentialZitadelJWT CredentialType = "zitadel-jwt"
	// CredentialClientCredentials is the id and the secret of a client of any
	// OpenID provider, which are changed for tokens.
	CredentialClientCredentials CredentialType = "oidc-client-credentials"
)

// Credentials is how a program proves to the broker who it is: a union told
// apart by Type, and an unknown type is refused.
type Credentials struct {
	Type CredentialType `toml:"type" json:"type"`
	// User, and its password: PasswordFile is read at every connect, and
	// Password is for trials.
	User         string `toml:"user" json:"user,omitempty"`
	Password     string `toml:"password" json:"password,omitempty"`
	PasswordFile string `toml:"password_file" json:"passwordFile,omitempty"`
	// SeedFile holds the seed of a user nkey ("SU…"); it is read at every connect.
	SeedFile string `toml:"seed_file" json:"seedFile,omitempty"`
	// Issuer of tokens, exactly as they spell it, and the Audience to ask for:
	// with Zitadel the id of the project.
	Issuer   string `toml:"issuer" json:"issuer,omitempty"`
	Audience string `toml:"audience" json:"audience,omitempty"`
	// CAFile holds the certificates to trust at the issuer instead of the system's.
	CAFile string `toml:"ca_file" json:"caFile,omitempty"`
	// KeyFile is the key of a machine user as Zitadel offers it, in JSON; it is
	// read whenever a token is asked for.
	KeyFile string `toml:"key_file" json:"keyFile,omitempty"`
	// ClientID and its secret, which is read whenever a token is asked for.
	ClientID         string `toml:"client_id" json:"clientID,omitempty"`
	ClientSecretFile string `toml:"client_secret_file" json:"clientSecretFile,omitempty"`
	// Scopes to ask for; none means those that Zitadel needs.
	Scopes []string `toml:"scopes" json:"scopes,omitempty"`
}

// credentialRule says which fields a type has: those that it needs, and those
// that it takes besides.
type credentialRule struct {
	kind         CredentialType
	needs, takes []string
}

func credentialRules() []credentialRule {
	return []credentialRule{
		{CredentialPassword, []string{"user"}, []string{"password_file", "password"}},
		{CredentialNKey, []string{"seed_file"}, nil},
		{CredentialZitadelJWT, []string{"issuer", "audience", "key_file"}, []string{"ca_file"}},
		{CredentialClientCredentials, []string{"issuer", "audience", "client_id", "client_secret_file"}, []string{"scopes", "ca_file"}},
	}
}

// written are the names of the fields that have a value.
func (c Credentials) written() (names []string) {
	for _, field := range []struct {
		name string
		set  bool
	}{
		{"user", c.User != ""},
		{"password", c.Password != ""},
		{"password_file", c.PasswordFile != ""},
		{"seed_file", c.SeedFile != ""},
		{"issuer", c.Issuer != ""},
		{"audience", c.Audience != ""},
		{"ca_file", c.CAFile != ""},
		{"key_file", c.KeyFile != ""},
		{"client_id", c.ClientID != ""},
		{"client_secret_file", c.ClientSecretFile != ""},
		{"scopes", len(c.Scopes) > 0},
	} {
		if field.set {
			names = append(names, field.name)
		}
	}
	return names
}

// notInScope are the characters that end a scope.
const notInScope = " \t\r\n\"\\"

// Validate reports what is wrong with the credentials.
func (c Credentials) Validate() error {
	rules := credentialRules()
	at := slices.IndexFunc(rules, func(r credentialRule) bool { return r.kind == c.Type })
	if at < 0 {
		var known []string
		for _, rule := range rules {
			known = append(known, strconv.Quote(string(rule.kind)))
		}
		if c.Type == "" {
			return fmt.Errorf("type: missing; write one of %s", strings.Join(known, ", "))
		}
		return fmt.Errorf("type: %q is unknown; this version knows %s", c.Type, strings.Join(known, ", "))
	}
	var errs []error
	written := c.written()
	for _, name := range rules[at].needs {
		if !slices.Contains(written, name) {
			errs = append(errs, fmt.Errorf("type %s: %s is missing", c.Type, name))
		}
	}
	for _, name := range written {
		if !slices.Contains(rules[at].needs, name) && !slices.Contains(rules[at].takes, name) {
			errs = append(errs, fmt.Errorf("type %s: %s belongs to another type; take it away", c.Type, name))
		}
	}
	if c.Type == CredentialPassword && (c.Password == "") == (c.PasswordFile == "") {
		errs = append(errs, errors.New("type password: write exactly one of password_file and password"))
	}
	if c.Issuer != "" && c.FromProvider() {
		if err := validHTTP(c.Issuer); err != nil {
			errs = append(errs, fmt.Errorf("type %s: issuer: %w", c.Type, err))
		}
	}
	// A scope is one word of a list on the wire, and the audience is part of one.
	if strings.ContainsAny(c.Audience, notInScope) {
		errs = append(errs, fmt.Errorf("type %s: audience: %q must be one word, without quotes", c.Type, c.Audience))
	}
	for _, scope := range c.Scopes {
		if scope == "" || strings.ContainsAny(scope, notInScope) {
			errs = append(errs, fmt.Errorf("type %s: scopes: %q must be one word, without quotes; write one scope per entry", c.Type, scope))
		}
	}
	return errors.Join(errs...)
}

// validateInCluster is Validate for the programs of the cluster. They must come
// up while the provider of tokens is down, and so log in without one.
func (c Credentials) validateInCluster() error {
	if c.FromProvider() {
		return fmt.Errorf("type: %q is for agents; write %q or %q here", c.Type, CredentialPassword, CredentialNKey)
	}
	return c.Validate()
}

// FromProvider reports whether an OpenID provider issues what is shown to the
// broker.
func (c Credentials) FromProvider() bool {
	return c.Type == CredentialZitadelJWT || c.Type == CredentialClientCredentials
}
