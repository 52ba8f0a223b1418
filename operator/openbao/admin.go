package openbao

import (
	"context"
	"encoding/json"
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

// adminTimeout bounds one exchange of a person.
const adminTimeout = 15 * time.Second

// Admin reads what is kept of devices, as the person whose token it has.
type Admin struct {
	client *api.Client
	mount  string
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
	return &Admin{client: client, mount: mount}, nil
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

// Close ends idle connections.
func (a *Admin) Close() { a.client.CloneConfig().HttpClient.CloseIdleConnections() }

// Records of a device as they are now. It fails with policy.ErrMalformed when
// they cannot be read.
func (a *Admin) Records(ctx context.Context, id wire.DeviceID) (policy.Records, error) {
	var r policy.Records
	_, decided, err := a.read(ctx, "devices/"+string(id))
	if err != nil {
		return r, fmt.Errorf("reading the policy of %q: %w", id, err)
	}
	if decided != nil {
		p, err := policy.Decode(decided)
		if err != nil {
			return r, fmt.Errorf("device %q: %w", id, err)
		}
		r.Policy = &p
	}
	listed, revocation, err := a.read(ctx, "revoked/"+string(id))
	if err != nil {
		return r, fmt.Errorf("reading whether %q is revoked: %w", id, err)
	}
	if listed { // whatever it is, and deleted or not
		read := policy.DecodeRevocation(revocation)
		r.Revocation = &read
	}
	return r, nil
}

// read asks for what is at a path of the engine now, and whether it is there at
// all: what is deleted has no data, and stays until its metadata is.
func (a *Admin) read(ctx context.Context, path string) (there bool, data []byte, err error) {
	found, err := a.client.Logical().ReadWithContext(ctx, a.mount+"/data/"+path)
	var refused *api.ResponseError
	if errors.As(err, &refused) && refused.StatusCode == http.StatusForbidden {
		return false, nil, fmt.Errorf("your token for OpenBao has expired, or may not read %s/data/%s (log in with `bao login`): %w", a.mount, path, err)
	}
	if err != nil || found == nil {
		return false, nil, err
	}
	if found.Data["data"] != nil {
		data, err = json.Marshal(found.Data["data"])
	}
	return true, data, err
}
