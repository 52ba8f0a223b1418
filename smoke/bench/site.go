package bench

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"

	"sigs.k8s.io/yaml"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
	"github.com/nationtech/harmony-fleet/smoke/openbao"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/programs"
)

// site is what decides about logins, all of it real: a provider of tokens, a store
// of policies in a process of its own, and the callout's program.
type site struct {
	dir      string
	provider *oidc.Provider
	bao      *openbao.Server
	// claims are those of a device's token, apart from who it is.
	claims map[string]any
	prefix string // of a device's name at the provider
}

// newSite enrols the devices 0 to n-1.
func newSite(ctx context.Context, dir string, n int) (_ *site, err error) {
	s := &site{dir: dir, prefix: config.CalloutDefaults().OIDC.DevicePrefix}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	if err := programs.Build(ctx, dir, "", programs.Callout); err != nil {
		return nil, err
	}
	if s.provider, err = oidc.Start(ctx, oidc.Options{}); err != nil {
		return nil, err
	}
	const pattern = "device-pattern"
	if _, err := s.provider.AddMachine(oidc.Machine{Name: pattern, Roles: []string{"device"}, RoleClaims: oidc.ProjectRoleMap}); err != nil {
		return nil, err
	}
	if s.claims, err = s.provider.Claims(pattern); err != nil {
		return nil, err
	}
	if s.bao, err = openbao.Start(ctx, openbao.Options{}); err != nil {
		return nil, err
	}
	return s, s.enrol(ctx, n)
}

// enrol sets OpenBao up as docs/identity.md says, with a policy for each device.
func (s *site) enrol(ctx context.Context, n int) error {
	c := config.OpenBaoDefaults()
	if err := s.bao.EnableKV(ctx, c.Mount); err != nil {
		return err
	}
	rules := fmt.Sprintf(`path "%[1]s/data/devices/*" { capabilities = ["read"] } path "%[1]s/metadata/revoked/" { capabilities = ["list"] }`, c.Mount)
	if err := s.bao.WritePolicy(ctx, c.LoginRole, rules); err != nil {
		return err
	}
	if _, err := s.bao.EnableJWT(ctx, c.LoginMount, openbao.Issuer{PublicKeys: []string{string(s.provider.PublicKeyPEM())}}); err != nil {
		return err
	}
	role := openbao.Role{Audiences: []string{"openbao"}, Policies: []string{c.LoginRole}, TTL: time.Hour}
	if err := s.bao.WriteRole(ctx, c.LoginMount, c.LoginRole, role); err != nil {
		return err
	}
	account, err := s.provider.Token(map[string]any{"sub": c.LoginRole, "aud": "openbao"})
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.loginToken(), []byte(account), 0o600); err != nil {
		return fmt.Errorf("writing the callout's login to OpenBao: %w", err)
	}
	return parallel(n, func(i int) error {
		return s.bao.PutSecret(ctx, c.Mount, "devices/"+string(deviceID(i)), map[string]any{
			"labels": map[string]any{"site": []string{"s1"}}, "sources": []string{"127.0.0.0/8"},
		})
	})
}

func (s *site) loginToken() string { return filepath.Join(s.dir, "openbao.token") }

// token is a fresh one of device i, as the provider issues them; no two are equal.
func (s *site) token(i, serial int) (string, error) {
	claims := maps.Clone(s.claims)
	claims["client_id"] = s.prefix + string(deviceID(i))
	claims["jti"] = fmt.Sprintf("%d-%d", i, serial)
	return s.provider.SignWith(nil, claims)
}

// startCallout runs the callout's program for a broker, and returns when it is
// ready. It has nothing in its caches.
func (s *site) startCallout(ctx context.Context, c config.CalloutConfig) (*process.Process, error) {
	c.OIDC.Issuer, c.OIDC.Audience = s.provider.Issuer(), s.provider.ProjectID()
	c.OpenBao.Address, c.OpenBao.LoginTokenFile = s.bao.Address(), s.loginToken()
	c.MetricsAddress = "0"
	port, err := process.FreePort()
	if err != nil {
		return nil, err
	}
	c.ProbeAddress = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	file, err := yaml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encoding the callout's configuration: %w", err)
	}
	path := filepath.Join(s.dir, "callout.yaml")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		return nil, fmt.Errorf("writing the callout's configuration: %w", err)
	}
	p, err := process.Start(process.Spec{
		Path: filepath.Join(s.dir, "fleet-callout"), Args: []string{"--config", path}, Log: filepath.Join(s.dir, "callout.log"),
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = p.WaitReady(ctx, func(ctx context.Context) error { return ready(ctx, "http://"+c.ProbeAddress+"/readyz") })
	if err != nil {
		p.Stop(0)
	}
	return p, err
}

func ready(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}

func (s *site) stop() {
	if s.bao != nil {
		s.bao.Stop()
	}
	if s.provider != nil {
		s.provider.Stop()
	}
}

// parallel calls do for 0 to n-1, a few at a time, and returns the first error.
func parallel(n int, do func(i int) error) error {
	return inFlight(n, 2*runtime.GOMAXPROCS(0), do)
}

// inFlight is parallel with so many at a time.
func inFlight(n, most int, do func(i int) error) error {
	var (
		work  sync.WaitGroup
		once  sync.Once
		first error
		next  = make(chan int)
	)
	for range most {
		work.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					once.Do(func() { first = err })
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	work.Wait()
	return first
}
