package policy

import "strings"

// rules are OpenBao's, for a KV engine at that mount.
func rules(mount, text string) string { return strings.ReplaceAll(text, "MOUNT/", mount+"/") }

// ReaderRules are what a program needs that reads policies: the operator.
func ReaderRules(mount string) string {
	return rules(mount, `path "MOUNT/data/devices/*"    { capabilities = ["read"] }
path "MOUNT/metadata/revoked/" { capabilities = ["list"] }
`)
}

// CalloutRules are what fleet-callout needs: it reads policies and revocations, and
// writes the key of a device that brought its token into the device's policy, after
// which it deletes the token. It can neither enrol a device nor end a revocation.
func CalloutRules(mount string) string {
	return rules(mount, `path "MOUNT/data/devices/*"        { capabilities = ["read", "update"] }
path "MOUNT/data/enrolments/*"     { capabilities = ["read"] }
path "MOUNT/metadata/enrolments/*" { capabilities = ["delete"] }
path "MOUNT/metadata/revoked/"     { capabilities = ["list"] }
`)
}

// PeopleRules are what somebody needs who enrols, revokes and removes devices.
func PeopleRules(mount string) string {
	return rules(mount, `path "MOUNT/data/devices/*"          { capabilities = ["create", "read", "update"] }
path "MOUNT/destroy/devices/*"       { capabilities = ["update"] }
path "MOUNT/data/enrolments/*"       { capabilities = ["create", "read", "update"] }
path "MOUNT/metadata/enrolments/*"   { capabilities = ["delete"] }
path "MOUNT/data/revoked/*"          { capabilities = ["create", "read", "update"] }
path "MOUNT/metadata/revoked/*"      { capabilities = ["delete"] }
path "MOUNT/metadata/devices/"       { capabilities = ["list"] }
path "MOUNT/metadata/revoked/"       { capabilities = ["list"] }
path "identity/entity/name/device-*" { capabilities = ["create", "read", "update", "delete"] }
path "identity/entity-alias"         { capabilities = ["create", "update"] }
path "sys/auth"                      { capabilities = ["read"] }
`)
}
