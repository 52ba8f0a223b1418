package openbao

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/openbao/openbao/api/v2"
)

// EnableKV mounts a KV engine of version 2 at that path, such as "secret".
func (s *Server) EnableKV(ctx context.Context, mount string) error {
	admin, err := s.admin()
	if err != nil {
		return err
	}
	input := &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}
	if err := admin.Sys().MountWithContext(ctx, mount, input); err != nil {
		return fmt.Errorf("mounting a KV engine at %s: %w", mount, err)
	}
	return nil
}

// PutSecret writes a new version of the secret at that path of the KV engine.
func (s *Server) PutSecret(ctx context.Context, mount, path string, data map[string]any) error {
	admin, err := s.admin()
	if err != nil {
		return err
	}
	if _, err := admin.KVv2(mount).Put(ctx, path, data); err != nil {
		return fmt.Errorf("writing the secret %s at %s: %w", path, mount, err)
	}
	return nil
}

// WritePolicy creates or replaces a policy; rules are in HCL.
func (s *Server) WritePolicy(ctx context.Context, name, rules string) error {
	admin, err := s.admin()
	if err != nil {
		return err
	}
	if err := admin.Sys().PutPolicyWithContext(ctx, name, rules); err != nil {
		return fmt.Errorf("writing the policy %s: %w", name, err)
	}
	return nil
}

// Issuer says whose tokens a JWT login accepts. Exactly one source of its keys
// has to be set.
type Issuer struct {
	// DiscoveryURL is the address of an OIDC issuer, which the server asks at once.
	DiscoveryURL string
	// JWKSURL is the address of a key set, which the server asks at once.
	JWKSURL string
	// PublicKeys in PEM.
	PublicKeys []string
	// Name that tokens must carry as their issuer; "" means any, or with
	// DiscoveryURL that address.
	Name string
}

// EnableJWT mounts a JWT login at that path below auth/, such as "jwt". A policy
// names the returned accessor to speak of the metadata that a login gives.
func (s *Server) EnableJWT(ctx context.Context, mount string, issuer Issuer) (accessor string, err error) {
	admin, err := s.admin()
	if err != nil {
		return "", err
	}
	if err := admin.Sys().EnableAuthWithOptionsWithContext(ctx, mount, &api.EnableAuthOptions{Type: "jwt"}); err != nil {
		return "", fmt.Errorf("mounting a JWT login at %s: %w", mount, err)
	}
	config := map[string]any{}
	set(config, "oidc_discovery_url", issuer.DiscoveryURL)
	set(config, "jwks_url", issuer.JWKSURL)
	set(config, "bound_issuer", issuer.Name)
	if len(issuer.PublicKeys) > 0 {
		config["jwt_validation_pubkeys"] = issuer.PublicKeys
	}
	if _, err := admin.Logical().WriteWithContext(ctx, "auth/"+mount+"/config", config); err != nil {
		return "", fmt.Errorf("configuring the JWT login at %s: %w", mount, err)
	}
	mounts, err := admin.Sys().ListAuthWithContext(ctx)
	if err != nil {
		return "", fmt.Errorf("looking up the accessor of %s: %w", mount, err)
	}
	found := mounts[mount+"/"]
	if found == nil {
		return "", fmt.Errorf("looking up the accessor of %s: %w", mount, errors.New("the server does not list it"))
	}
	return found.Accessor, nil
}

// Role says which tokens of the issuer may log in and what they then may do.
type Role struct {
	// Audiences of which the token must carry one; needed for a token with any.
	Audiences []string
	// Claims that the token must carry with that value, or one of a list. A role
	// without audiences needs one.
	Claims map[string]any
	// UserClaim names the claim that tells who it is; "" means "sub".
	UserClaim string
	// Metadata is what the server remembers of who logged in: by claim, the name
	// it then has. The last login counts for every token of the same user, and a
	// policy takes a value of "+" for any: the issuer has to vouch for both claims.
	Metadata map[string]string
	// Policies that the token from the login carries, besides "default".
	Policies []string
	// TTL of the token from the login; 0 means the server's default.
	TTL time.Duration
}

// WriteRole creates or replaces a role of a JWT login.
func (s *Server) WriteRole(ctx context.Context, mount, name string, role Role) error {
	admin, err := s.admin()
	if err != nil {
		return err
	}
	data := map[string]any{
		"role_type":       "jwt",
		"user_claim":      cmp.Or(role.UserClaim, "sub"),
		"bound_audiences": role.Audiences,
		"bound_claims":    role.Claims,
		"claim_mappings":  role.Metadata,
		"token_policies":  role.Policies,
		"token_ttl":       role.TTL.String(),
	}
	if _, err := admin.Logical().WriteWithContext(ctx, "auth/"+mount+"/role/"+name, data); err != nil {
		return fmt.Errorf("writing the role %s of %s: %w", name, mount, err)
	}
	return nil
}

func set(config map[string]any, key, value string) {
	if value != "" {
		config[key] = value
	}
}
