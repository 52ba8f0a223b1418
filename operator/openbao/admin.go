package openbao

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/openbao/openbao/api/v2"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// revokedWithin is the time in which every program that runs has read of a
// revocation and cut off who is revoked, with room to spare.
const revokedWithin = 2*revokedInterval + time.Second

// adminTimeout bounds one exchange of a person.
const adminTimeout = 15 * time.Second

// Admin changes what is kept of devices, as the person whose token it has.
type Admin struct {
	client *api.Client
	kv     kv
}

// NewAdmin takes the person's token and what else there is to know from where
// OpenBao's own command has it: the environment (BAO_ADDR, BAO_TOKEN, BAO_CACERT
// and the others, or VAULT_ instead of BAO_), and the token from ~/.vault-token
// when the environment has none. address is used instead of BAO_ADDR unless it is
// "". Errors say what to set.
func NewAdmin(address, mount string) (*Admin, error) {
	c := api.DefaultConfig()
	if c.Error != nil {
		return nil, fmt.Errorf("reading how to reach OpenBao from the environment: %w", c.Error)
	}
	if address == "" && api.ReadBaoVariable(api.EnvVaultAddress) == "" {
		return nil, errors.New("the address of OpenBao is missing: set BAO_ADDR or --openbao-address")
	}
	if address != "" {
		c.Address, c.AgentAddress = address, ""
	}
	section := config.OpenBaoDefaults()
	section.Address, section.Mount = strings.TrimSuffix(c.Address, "/"), mount
	if err := section.Validate(); err != nil {
		return nil, fmt.Errorf("OpenBao (BAO_ADDR, --openbao-address, --openbao-mount): %w", err)
	}
	c.Timeout = adminTimeout
	client, err := api.NewClient(c)
	if err != nil {
		return nil, fmt.Errorf("OpenBao: %w", err)
	}
	if client.Token() == "" {
		token, err := savedToken()
		if err != nil {
			return nil, err
		}
		client.SetToken(token)
	}
	a := &Admin{client: client}
	a.kv = kv{client: client, mount: mount, call: a.call}
	return a, nil
}

// savedToken is the token that OpenBao's command saved at the last login.
func savedToken() (string, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("looking for the token of OpenBao: %w", err)
	}
	file := filepath.Join(home, ".vault-token")
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && strings.TrimSpace(string(data)) == "" {
		return "", fmt.Errorf("there is no token for OpenBao: log in with `bao login`, or set BAO_TOKEN (looked at %s too)", file)
	}
	if err != nil {
		return "", fmt.Errorf("reading the token of OpenBao: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// call does one exchange, and says of a refusal what it may mean.
func (a *Admin) call(ctx context.Context, do func(context.Context) (*api.Secret, error)) (*api.Secret, error) {
	secret, err := do(ctx)
	var refused *api.ResponseError
	if errors.As(err, &refused) && refused.StatusCode == http.StatusForbidden {
		return nil, fmt.Errorf("your token for OpenBao has expired, or lacks a right that docs/enrolment.md lists (log in with `bao login`): %w", err)
	}
	return secret, err
}

// Close ends idle connections.
func (a *Admin) Close() { a.client.CloneConfig().HttpClient.CloseIdleConnections() }

// RevokedWithin is how long it takes at most until whoever is revoked is cut off.
func (a *Admin) RevokedWithin() time.Duration { return revokedWithin }

// Who is the person, as OpenBao shows it; "" when the token may not ask.
func (a *Admin) Who(ctx context.Context) string {
	secret, err := a.client.Auth().Token().LookupSelfWithContext(ctx)
	if err != nil || secret == nil {
		return ""
	}
	name, _ := secret.Data["display_name"].(string)
	return name
}

// Records of a device as they are now. It fails with policy.ErrMalformed when
// they cannot be read, and tells all the same whether the device is revoked.
func (a *Admin) Records(ctx context.Context, id wire.DeviceID) (policy.Records, error) {
	found, err := a.kv.read(ctx, revoked+string(id))
	if err != nil {
		return policy.Records{}, fmt.Errorf("reading whether %q is revoked: %w", id, err)
	}
	r, err := a.kv.records(ctx, id)
	if found.version != "" { // whatever it is, and deleted or not: it is listed
		revocation := policy.DecodeRevocation(found.data)
		r.Revocation = &revocation
	}
	r.RevocationVersion = found.version
	return r, err
}

// PutPolicy writes a policy, if its version is still that of Records. It fails
// with policy.ErrChanged.
func (a *Admin) PutPolicy(ctx context.Context, id wire.DeviceID, p policy.Policy, version string) error {
	return a.kv.putPolicy(ctx, id, p, version)
}

// DestroyPolicy removes the policy with all its versions, for good. Their number
// stays, so that nobody who has read an older one can write it again.
func (a *Admin) DestroyPolicy(ctx context.Context, id wire.DeviceID, version string) error {
	last, err := number(version)
	if err != nil || last == 0 { // 0: there never was one
		return err
	}
	var versions []int
	for v := range last {
		versions = append(versions, v+1)
	}
	_, err = a.call(ctx, func(ctx context.Context) (*api.Secret, error) {
		return a.client.Logical().WriteWithContext(ctx, a.kv.mount+"/destroy/"+devices+string(id), map[string]any{"versions": versions})
	})
	if err != nil {
		return fmt.Errorf("removing the policy of %q: %w", id, err)
	}
	return nil
}

// PutEnrolment keeps a token. It fails with policy.ErrChanged when there is one.
func (a *Admin) PutEnrolment(ctx context.Context, id wire.DeviceID, e policy.Enrolment) error {
	if err := a.kv.write(ctx, enrolments+string(id), e, ""); err != nil {
		return fmt.Errorf("writing the enrolment of %q: %w", id, err)
	}
	return nil
}

// DropEnrolment makes the token of a device useless.
func (a *Admin) DropEnrolment(ctx context.Context, id wire.DeviceID) error {
	return a.kv.dropEnrolment(ctx, id)
}

// PutRevocation revokes a device, if the version of its revocation is still that
// of Records. It fails with policy.ErrChanged.
func (a *Admin) PutRevocation(ctx context.Context, id wire.DeviceID, r policy.Revocation, version string) error {
	if err := a.kv.write(ctx, revoked+string(id), r, version); err != nil {
		return fmt.Errorf("revoking %q: %w", id, err)
	}
	return nil
}

// DropRevocation ends the revocation of a device.
func (a *Admin) DropRevocation(ctx context.Context, id wire.DeviceID) error {
	if err := a.kv.erase(ctx, revoked+string(id)); err != nil {
		return fmt.Errorf("ending the revocation of %q: %w", id, err)
	}
	return nil
}
