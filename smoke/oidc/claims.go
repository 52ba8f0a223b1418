package oidc

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Scopes of Zitadel, and the claims that answer them.
const (
	audiencePrefix, audienceSuffix = "urn:zitadel:iam:org:project:id:", ":aud"
	// The first is Zitadel's; the second, named like the claim, is widespread.
	scopeProjectsRoles, scopeProjectRoles = "urn:zitadel:iam:org:projects:roles", claimRoles

	claimRoles       = "urn:zitadel:iam:org:project:roles"
	claimRolesFormat = "urn:zitadel:iam:org:project:%s:roles"
)

// orgDomain is the domain of the organisation, which role maps carry.
const orgDomain = "fleet.localhost"

func audienceScope(project string) string { return audiencePrefix + project + audienceSuffix }

// Claims are those that the machine gets when it asks for the project's audience
// and for its roles: the start of a token that is wrong in one claim alone.
func (p *Provider) Claims(name string) (map[string]any, error) {
	m, known := p.machineByName(name)
	if !known {
		return nil, fmt.Errorf("making the claims of %q: there is no such machine", name)
	}
	return p.claimsOf(m, []string{audienceScope(p.options.ProjectID), scopeProjectsRoles}), nil
}

// newClaims are those that every token has.
func (p *Provider) newClaims() map[string]any {
	now := time.Now().Unix()
	return map[string]any{
		"iss": p.issuer,
		"iat": now,
		"nbf": now,
		"exp": now + int64(p.options.TokenLifetime/time.Second),
		"jti": "V2_" + newID() + "-at_" + newID(),
	}
}

func (p *Provider) claimsOf(m machine, scopes []string) map[string]any {
	claims := p.newClaims()
	claims["sub"] = m.userID
	claims["client_id"] = m.Name
	audience := audiences(scopes)
	for name, roles := range p.roleClaims(m, scopes, audience) {
		claims[name] = roles
	}
	if len(audience) == 0 {
		audience = []string{m.Name} // a token is for its own client when it is for no one else
	}
	claims["aud"] = audience
	return claims
}

// audiences are the projects that the scopes ask for; like Zitadel, the provider
// grants the audience of projects that it does not know.
func audiences(scopes []string) []string {
	var projects []string
	for _, scope := range scopes {
		project, found := strings.CutPrefix(scope, audiencePrefix)
		project, complete := strings.CutSuffix(project, audienceSuffix)
		if found && complete && !slices.Contains(projects, project) {
			projects = append(projects, project)
		}
	}
	return projects
}

func (p *Provider) roleClaims(m machine, scopes, audience []string) map[string]any {
	if len(m.Roles) == 0 {
		return nil // no claim, and not an empty one
	}
	project := p.options.ProjectID
	ofProject := fmt.Sprintf(claimRolesFormat, project)
	asked := slices.Contains(scopes, scopeProjectsRoles)
	if m.RoleClaims == ProjectRoleMap {
		if !asked || !slices.Contains(audience, project) {
			return nil
		}
		return map[string]any{ofProject: p.roleMap(m.Roles)}
	}
	if !asked && !slices.Contains(scopes, scopeProjectRoles) {
		return nil
	}
	var roles any = p.roleMap(m.Roles)
	if m.RoleClaims == RoleArrays {
		roles = m.Roles
	}
	return map[string]any{ofProject: roles, claimRoles: roles}
}

func (p *Provider) roleMap(roles []string) map[string]map[string]string {
	result := map[string]map[string]string{}
	for _, role := range roles {
		result[role] = map[string]string{p.org: orgDomain}
	}
	return result
}
