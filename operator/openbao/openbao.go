// Package openbao keeps the policies of devices in OpenBao. A Store is for the
// programs of the cluster: it reads a policy when it is asked for, and every few
// seconds who is revoked. What it has read it remembers, so that an outage of
// OpenBao cuts no known device off for a stated time. And it writes which secrets
// a device may read. An Admin acts for a person, remembers nothing, and may do
// what that person may.
//
// The package decides nothing, reads no secret, and never takes an answer that did
// not come for a "no".
package openbao

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/openbao/openbao/api/v2"
	"k8s.io/apimachinery/pkg/util/cache"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	// maxAge is how long a policy is used without reading it again.
	maxAge = 30 * time.Second
	// recentAge is how long it is remembered that there is no policy, or that it is
	// not the one that the device needs: not long, because it may just join.
	recentAge = 2 * time.Second
	// revokedInterval is the time between two looks at who is revoked.
	revokedInterval = 2 * time.Second
	// requestTimeout bounds one exchange.
	requestTimeout = 2 * time.Second
	// outage is how long OpenBao is not asked again after it failed, for a device
	// whose policy is remembered.
	outage = 2 * time.Second
	// maxKnown bounds the policies that are remembered.
	maxKnown = 200_000
)

// Options of a Store; all are needed.
type Options struct {
	Config config.OpenBaoSection
	Log    logr.Logger
	Now    func() time.Time
}

// Store is the policies and revocations of all devices.
type Store struct {
	options Options
	client  *api.Client
	kv      kv
	known   *cache.LRUExpireCache // answers by device id

	login   sync.Mutex // held while logging in
	renewAt time.Time  // with login

	mu      sync.Mutex
	revoked map[wire.DeviceID]bool // with mu; replaced, never changed
	listed  time.Time              // with mu; when revoked was read
	down    time.Time              // with mu; until when OpenBao is spared
	problem string                 // with mu; the last one logged
}

// answer is what was read of a device: a policy, or that there certainly is none
// that could be used.
type answer struct {
	policy policy.Policy
	err    error
	read   time.Time
}

// New makes a store that has read nothing.
func New(o Options) (*Store, error) {
	// Not api.DefaultConfig, which lets the environment decide.
	c := &api.Config{Address: o.Config.Address, Timeout: requestTimeout, MaxRetries: 1}
	if err := c.ConfigureTLS(&api.TLSConfig{CACert: o.Config.CAFile}); err != nil {
		return nil, fmt.Errorf("openbao: caFile: %w", err)
	}
	client, err := api.NewClient(c)
	if err != nil {
		return nil, fmt.Errorf("openbao: %w", err)
	}
	client.ClearToken()
	s := &Store{options: o, client: client, known: cache.NewLRUExpireCacheWithClock(maxKnown, clock(o.Now))}
	s.kv = kv{client: client, mount: o.Config.Mount, call: s.call}
	return s, nil
}

// clock tells the cache the time.
type clock func() time.Time

// Now implements the cache's clock.
func (c clock) Now() time.Time { return c() }

// Policy of a device. It fails with policy.ErrNone, policy.ErrRevoked or
// policy.ErrMalformed when that is certain.
func (s *Store) Policy(ctx context.Context, id wire.DeviceID) (policy.Policy, error) {
	return s.policy(ctx, id, maxAge)
}

// Recent is Policy as it was within the last two seconds, where OpenBao answers.
func (s *Store) Recent(ctx context.Context, id wire.DeviceID) (policy.Policy, error) {
	return s.policy(ctx, id, recentAge)
}

// policy reads again what is older than age.
func (s *Store) policy(ctx context.Context, id wire.DeviceID, age time.Duration) (policy.Policy, error) {
	spared, err := s.admits(id)
	if err != nil {
		return policy.Policy{}, err
	}
	var held answer
	if found, ok := s.known.Get(id); ok {
		held = found.(answer)
		if spared || s.options.Now().Sub(held.read) < age {
			return held.policy, held.err
		}
	}
	fresh, err := s.read(ctx, id)
	if err != nil {
		s.failed(err)
		if !held.read.IsZero() {
			return held.policy, held.err
		}
		return policy.Policy{}, err
	}
	keep := time.Duration(s.options.Config.MaxStale)
	if fresh.err != nil {
		keep = recentAge
	}
	s.known.Add(id, fresh, keep)
	return fresh.policy, fresh.err
}

// admits fails for a device that is revoked, and for all when it has not been
// known for too long who is. It tells whether OpenBao is to be spared.
func (s *Store) admits(id wire.DeviceID) (spared bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.options.Now()
	if s.listed.IsZero() || now.Sub(s.listed) > time.Duration(s.options.Config.MaxStale) {
		return false, errors.New("it is not known which devices are revoked")
	}
	if s.revoked[id] {
		return false, policy.ErrRevoked
	}
	return now.Before(s.down), nil
}

// read asks for the policy of a device.
func (s *Store) read(ctx context.Context, id wire.DeviceID) (answer, error) {
	found, err := s.kv.read(ctx, devices+string(id))
	if err != nil {
		return answer{}, fmt.Errorf("reading the policy of %q: %w", id, err)
	}
	a := answer{read: s.options.Now(), err: policy.ErrNone}
	if found.data != nil {
		a.policy, a.err = policy.Decode(found.data)
	}
	return a, nil
}

// Run keeps up with who is revoked, until ctx ends, and calls cut with those who
// are so anew. It never gives up.
func (s *Store) Run(ctx context.Context, cut func([]wire.DeviceID)) {
	ticker := time.NewTicker(revokedInterval)
	defer ticker.Stop()
	for {
		if anew, err := s.list(ctx); err != nil && ctx.Err() == nil {
			s.failed(err)
		} else if err == nil && len(anew) > 0 {
			cut(anew)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// readRevoked asks who is revoked. A device that is named in a way that no device
// can be is left out.
func (s *Store) readRevoked(ctx context.Context) (map[wire.DeviceID]bool, error) {
	path := s.options.Config.Mount + "/metadata/revoked"
	secret, err := s.call(ctx, func(ctx context.Context) (*api.Secret, error) { return s.client.Logical().ListWithContext(ctx, path) })
	if err != nil {
		return nil, fmt.Errorf("reading which devices are revoked: %w", err)
	}
	revoked := map[wire.DeviceID]bool{}
	if secret != nil { // nil when there is none
		keys, _ := secret.Data["keys"].([]any)
		for _, key := range keys {
			text, _ := key.(string)
			if id, err := wire.ParseDeviceID(text); err == nil {
				revoked[id] = true
			}
		}
	}
	return revoked, nil
}

// list reads who is revoked and returns those who were not before. What was read
// of them is forgotten: the policy that lets them in again is another one.
func (s *Store) list(ctx context.Context) (anew []wire.DeviceID, err error) {
	revoked, err := s.readRevoked(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range revoked {
		if !s.revoked[id] {
			anew = append(anew, id)
		}
		s.known.Remove(id)
	}
	if s.problem != "" {
		s.options.Log.Info("OpenBao answers again")
	}
	s.revoked, s.listed, s.problem, s.down = revoked, s.options.Now(), "", time.Time{}
	return anew, nil
}

// failed notes an outage, and logs it when it is another one than before.
func (s *Store) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = s.options.Now().Add(outage)
	if text := err.Error(); text != s.problem {
		s.problem = text
		s.options.Log.Error(err, "OpenBao cannot be asked, going on with what is remembered", "since", s.listed)
	}
}

// Ready is why nothing can be decided yet.
func (s *Store) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listed.IsZero() {
		return errors.New("OpenBao has not answered yet: " + s.problem)
	}
	return nil
}

// Close ends idle connections.
func (s *Store) Close() { s.client.CloneConfig().HttpClient.CloseIdleConnections() }

// call does one exchange, logging in before it when that is due, and once more
// when OpenBao no longer knows the login.
func (s *Store) call(ctx context.Context, do func(context.Context) (*api.Secret, error)) (*api.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	if err := s.logIn(ctx, false); err != nil {
		return nil, err
	}
	secret, err := do(ctx)
	var refused *api.ResponseError
	if errors.As(err, &refused) && refused.StatusCode == 403 {
		if err := s.logIn(ctx, true); err != nil {
			return nil, err
		}
		secret, err = do(ctx)
	}
	return secret, err
}

// logIn gets a token unless the one at hand is good for a while; with anew, in any
// case.
func (s *Store) logIn(ctx context.Context, anew bool) error {
	s.login.Lock()
	defer s.login.Unlock()
	if !anew && s.options.Now().Before(s.renewAt) {
		return nil
	}
	jwt, err := os.ReadFile(s.options.Config.LoginTokenFile)
	if err != nil {
		return fmt.Errorf("logging in to OpenBao: loginTokenFile: %w", err)
	}
	bare, err := s.client.Clone()
	if err != nil {
		return fmt.Errorf("logging in to OpenBao: %w", err)
	}
	bare.ClearToken()
	secret, err := bare.Logical().WriteWithContext(ctx, "auth/"+s.options.Config.LoginMount+"/login", map[string]any{
		"role": s.options.Config.LoginRole, "jwt": strings.TrimSpace(string(jwt)),
	})
	if err != nil {
		return fmt.Errorf("logging in to OpenBao as role %q: %w", s.options.Config.LoginRole, err)
	}
	if secret == nil || secret.Auth == nil {
		return errors.New("logging in to OpenBao: the answer has no token")
	}
	s.client.SetToken(secret.Auth.ClientToken)
	life := time.Duration(secret.Auth.LeaseDuration) * time.Second
	s.renewAt = s.options.Now().Add(life * 2 / 3)
	return nil
}
