package podman

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containers/podman/v5/pkg/specgen"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	// MaxSecret is the largest value that podman holds, in bytes; the smallest is 1.
	MaxSecret = 512_000 - 1
	// secretMode of a file lets every process of the container read it, whatever
	// its user.
	secretMode = 0o444
	// concealed stands in for a value, as podman 5 has it.
	concealed = "*******"
)

// Secrets are the names of the secrets that podman holds for the device, and of no
// other.
func (c *Client) Secrets(ctx context.Context, device wire.DeviceID) ([]string, error) {
	var list []struct{ Spec struct{ Name string } }
	if _, err := c.do(ctx, call{doing: "listing secrets", method: http.MethodGet, path: "/secrets/json"}, &list); err != nil {
		return nil, err
	}
	var names []string
	for _, one := range list {
		if strings.HasPrefix(one.Spec.Name, reconcile.SecretPrefix(device)) {
			names = append(names, one.Spec.Name)
		}
	}
	return names, nil
}

// PutSecret has podman hold the value, of 1 to MaxSecret bytes, under a name that
// it does not hold yet.
func (c *Client) PutSecret(ctx context.Context, name string, value []byte) error {
	r := call{doing: "creating secret " + name, method: http.MethodPost, path: "/secrets/create", query: url.Values{"name": {name}}, raw: value, timeout: changeTimeout}
	_, err := c.do(ctx, r, nil)
	return err
}

// RemoveSecret has podman forget a secret, which may be gone already.
func (c *Client) RemoveSecret(ctx context.Context, name string) error {
	r := call{doing: "removing secret " + name, method: http.MethodDelete, path: "/secrets/%s", names: []string{name}}
	status, err := c.do(ctx, r, nil)
	if status == http.StatusNotFound {
		return nil
	}
	return err
}

// give has the container get the secrets of its service.
func give(s *specgen.SpecGenerator, secrets []reconcile.NamedSecret) {
	if len(secrets) == 0 {
		return
	}
	var names, variables []string
	s.EnvSecrets = map[string]string{}
	for _, one := range secrets {
		names = append(names, one.PodmanName)
		if one.Env != "" {
			s.EnvSecrets[one.Env] = one.PodmanName
			variables = append(variables, one.Env)
		} else {
			s.Secrets = append(s.Secrets, specgen.Secret{Source: one.PodmanName, Target: one.File, Mode: secretMode})
		}
	}
	slices.Sort(names)
	s.Labels[LabelSecrets] = strings.Join(slices.Compact(names), ",")
	if len(variables) > 0 {
		s.Labels[LabelVariables] = strings.Join(variables, ",")
	}
}

// conceal strikes the values of secrets out of the configuration that podman made
// for the runtime, from which podman before version 5 tells a container's
// environment to whoever inspects it. Nothing else reads that once the container
// was started, and the next start makes it anew.
func (c *Client) conceal(ctx context.Context, step reconcile.Step) error {
	i, err := c.inspect(ctx, step.Container.ID)
	if err != nil {
		return err
	}
	// The container may be of another version than the service that is wanted.
	variables := strings.Split(i.Config.Labels[LabelVariables], ",")
	for _, one := range step.Service.Spec.Secrets {
		if one.Env != "" {
			variables = append(variables, one.Env)
		}
	}
	if _, shown := struck(i.Config.Env, variables); !shown {
		return nil
	}
	if err := rewrite(i.OCIConfigPath, variables); err != nil {
		return fmt.Errorf("striking secrets out of what podman inspect shows: %w", err)
	}
	return nil
}

// struck is the environment without the values of the variables, and whether there
// was any.
func struck(environment, variables []string) (without []string, shown bool) {
	for _, one := range environment {
		name, value, _ := strings.Cut(one, "=")
		if slices.Contains(variables, name) && value != concealed {
			one, shown = name+"="+concealed, true
		}
		without = append(without, one)
	}
	return without, shown
}

// rewrite strikes the variables out of a configuration of the runtime, of which
// everything else stays as it is, its owner included.
func rewrite(path string, variables []string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var all, process map[string]json.RawMessage
	var environment []string
	if err := json.Unmarshal(data, &all); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := json.Unmarshal(all["process"], &process); err != nil {
		return fmt.Errorf("%s: process: %w", path, err)
	}
	if err := json.Unmarshal(process["env"], &environment); err != nil {
		return fmt.Errorf("%s: process.env: %w", path, err)
	}
	environment, _ = struck(environment, variables)
	for _, part := range []struct {
		in    map[string]json.RawMessage
		name  string
		value any
	}{{process, "env", environment}, {all, "process", process}} {
		if part.in[part.name], err = json.Marshal(part.value); err != nil {
			return err
		}
	}
	if data, err = json.Marshal(all); err != nil {
		return err
	}
	return replace(path, data)
}

// replace has the file hold the data, whole at every moment.
func replace(path string, data []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), "fleet-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }() // there is nothing once it is renamed
	_, err = file.Write(data)
	if owner, known := info.Sys().(*syscall.Stat_t); known && err == nil {
		err = file.Chown(int(owner.Uid), int(owner.Gid))
	}
	if err == nil {
		err = file.Chmod(info.Mode().Perm())
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
