package bench

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/smoke/auth"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/programs"
)

// site is what decides about logins, all of it real: a provider of tokens, a store
// of policies in a process of its own, and the callout's program.
type site struct {
	*auth.Auth
	dir string
	// claims are those of a device's token, apart from who it is.
	claims map[string]any
}

// newSite enrols the devices 0 to n-1. It has a folder of its own within dir.
func newSite(ctx context.Context, dir string, n int) (_ *site, err error) {
	if dir, err = os.MkdirTemp(dir, "site-"); err != nil {
		return nil, fmt.Errorf("making a folder for provider, OpenBao and callout: %w", err)
	}
	if err := programs.Build(ctx, dir, "", programs.Callout); err != nil {
		return nil, err
	}
	s := &site{dir: dir}
	if s.Auth, err = auth.Start(ctx, auth.Options{Dir: dir, Callout: config.CalloutDefaults()}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	const pattern = "device-pattern"
	if _, err := s.Provider.AddMachine(oidc.Machine{Name: pattern, Roles: []string{"device"}, RoleClaims: oidc.ProjectRoleMap}); err != nil {
		return nil, err
	}
	if s.claims, err = s.Provider.Claims(pattern); err != nil {
		return nil, err
	}
	allowed := policy.Policy{Labels: map[string][]string{"site": {"s1"}}, Sources: []string{"127.0.0.0/8"}}
	return s, parallel(n, func(i int) error { return s.Bao.PutPolicy(ctx, deviceID(i), allowed) })
}

// token is a fresh one of device i, as the provider issues them; no two are equal.
func (s *site) token(i, serial int) (string, error) {
	claims := maps.Clone(s.claims)
	claims["client_id"] = s.Callout.OIDC.DevicePrefix + string(deviceID(i))
	claims["jti"] = fmt.Sprintf("%d-%d", i, serial)
	return s.Provider.SignWith(nil, claims)
}

// startCallout runs the callout's program for the broker of that configuration,
// and returns when it is ready. It has nothing in its caches.
func (s *site) startCallout(ctx context.Context, broker config.CalloutConfig) (*process.Process, error) {
	broker.OIDC, broker.OpenBao = s.Callout.OIDC, s.Callout.OpenBao
	s.Callout = broker
	file, readyURL, err := s.Replica("callout")
	if err != nil {
		return nil, err
	}
	p, err := process.Start(process.Spec{
		Path: filepath.Join(s.dir, "fleet-callout"), Args: []string{"--config", file}, Log: filepath.Join(s.dir, "callout.log"),
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := p.WaitReady(ctx, func(ctx context.Context) error { return process.Answers(ctx, readyURL) }); err != nil {
		p.Stop(0)
		return nil, err
	}
	return p, nil
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
