// Package roster keeps the policies of devices in the cluster itself, as
// DevicePolicies. A Store is for the programs of the cluster: it follows all of
// them by a watch and has what is decided of each device in memory, so that an
// outage of the API server cuts no known device off for a stated time. An Admin
// acts for a person, remembers nothing, and may do what that person may.
//
// The two write different halves of the resource: a person decides, in the spec,
// and a Store has the key of a device that joined written, in the status. So a
// callout that was taken over can neither enrol a device, nor end a revocation,
// nor change what a policy allows; and the API server refuses it a second key for
// a token that was used.
//
// The package decides nothing, keeps no secrets of workloads, and never takes an
// answer that did not come for a "no".
package roster

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	expiring "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	// requestTimeout bounds one exchange.
	requestTimeout = 2 * time.Second
	// recentAge is how long it is remembered what was read of a device whose key is
	// not the one that it brings: whoever makes up keys decides how often it tries.
	recentAge = 2 * time.Second
	// maxRecent bounds the devices of which that is remembered.
	maxRecent = 10_000
	// minPause and maxPause bound the wait until a watch that ended is begun again.
	minPause, maxPause = 250 * time.Millisecond, 2 * time.Second
)

// Options of a Store; all are needed.
type Options struct {
	// Kube is how to reach the API server, as whom.
	Kube   *rest.Config
	Config config.RosterSection
	Log    logr.Logger
	Now    func() time.Time
}

// Store is the policies and revocations of all devices.
type Store struct {
	options Options
	client  client
	// memory is what the watch told.
	memory *memory
	// recent are answers by device id that were read and not told.
	recent *expiring.LRUExpireCache

	mu      sync.Mutex
	problem string // with mu; the last one logged, "" while the watch goes on
}

// New makes a store that has heard nothing.
func New(o Options) (*Store, error) {
	c, err := newClient(o.Kube)
	if err != nil {
		return nil, err
	}
	return &Store{
		options: o, client: c, memory: newMemory(o.Now),
		recent: expiring.NewLRUExpireCacheWithClock(maxRecent, clock(o.Now)),
	}, nil
}

// clock tells the cache the time.
type clock func() time.Time

// Now implements the cache's clock.
func (c clock) Now() time.Time { return c() }

// Policy of a device, as the watch told it last. It fails with policy.ErrNone,
// policy.ErrRevoked or policy.ErrMalformed when that is certain.
func (s *Store) Policy(_ context.Context, id wire.DeviceID) (policy.Policy, error) {
	heard := s.memory.lastHeard()
	if heard.IsZero() {
		return policy.Policy{}, errors.New("the policies of devices were not read yet")
	}
	if silent := s.options.Now().Sub(heard); silent > time.Duration(s.options.Config.MaxStale) {
		return policy.Policy{}, fmt.Errorf("the API server has told nothing about policies of devices for %s, longer than maxStale", silent.Round(time.Second))
	}
	decided := s.memory.get(id)
	return decided.policy, decided.err
}

// Recent is Policy for a device whose key it does not name: another replica may
// just have written it, so the API server is asked, where it answers.
func (s *Store) Recent(ctx context.Context, id wire.DeviceID) (policy.Policy, error) {
	held, err := s.Policy(ctx, id)
	if errors.Is(err, policy.ErrRevoked) {
		return held, err
	}
	if found, ok := s.recent.Get(id); ok {
		decided := found.(decision)
		return decided.policy, decided.err
	}
	o, readErr := s.read(ctx, id)
	if readErr != nil {
		return held, err
	}
	decided := decide(o)
	s.recent.Add(id, decided, recentAge)
	return decided.policy, decided.err
}

// Records of a device as they are now, and not as they are remembered. It fails
// with policy.ErrMalformed when that is certain.
func (s *Store) Records(ctx context.Context, id wire.DeviceID) (policy.Records, error) {
	o, err := s.read(ctx, id)
	if err != nil {
		return policy.Records{}, err
	}
	r, err := records(o)
	if o != nil {
		r.Version = o.ResourceVersion
	}
	return r, err
}

func (s *Store) read(ctx context.Context, id wire.DeviceID) (*v1alpha1.DevicePolicy, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return s.client.get(ctx, id)
}

// Admit writes the device's key, which spends its token too, if nothing was
// changed since Records told. It fails with policy.ErrChanged.
func (s *Store) Admit(ctx context.Context, id wire.DeviceID, key string, r policy.Records) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	defer s.recent.Remove(id)
	return s.client.put(ctx, "status", &v1alpha1.DevicePolicy{
		ObjectMeta: metav1.ObjectMeta{Name: string(id), ResourceVersion: r.Version},
		Status:     v1alpha1.DevicePolicyStatus{NKey: key, Enrolment: r.Enrolment.Digest},
	})
}

// Spend has nothing to do: a token whose key is written lets no other in.
func (s *Store) Spend(context.Context, wire.DeviceID) error { return nil }

// Run follows the policies until ctx ends, and calls cut with the devices that may
// no longer be connected as they are. It never gives up.
func (s *Store) Run(ctx context.Context, cut func([]wire.DeviceID)) {
	log := s.options.Log
	reflector := cache.NewReflectorWithOptions(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := s.client.list(ctx, o)
			s.told(ctx, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			events, err := s.client.watch(ctx, o)
			s.told(ctx, err)
			if err == nil && o.SendInitialEvents == nil {
				s.memory.goesOn()
			}
			return events, err
		},
	}, &v1alpha1.DevicePolicy{}, s.memory, cache.ReflectorOptions{
		Name: "devicepolicies", Logger: &log,
		Backoff: &wait.Backoff{Duration: minPause, Factor: 2, Jitter: 0.5, Steps: math.MaxInt32, Cap: maxPause},
	})
	var following sync.WaitGroup
	following.Go(func() { reflector.RunWithContext(ctx) })
	defer following.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.memory.changed:
			if shut := s.memory.takeShut(); len(shut) > 0 {
				cut(shut)
			}
		}
	}
}

// told logs an outage when it is another one than before.
func (s *Store) told(ctx context.Context, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.problem = ""
	} else if text := err.Error(); text != s.problem && ctx.Err() == nil {
		s.problem = text
		s.options.Log.Error(err, "the API server does not tell the policies of devices, going on with what is remembered", "since", s.memory.lastHeard())
	}
}

// Ready is why nothing can be decided yet.
func (s *Store) Ready() error {
	if s.memory.lastHeard().IsZero() {
		s.mu.Lock()
		defer s.mu.Unlock()
		return errors.New("the API server has not told the policies of devices yet: " + s.problem)
	}
	return nil
}

// Close ends idle connections.
func (s *Store) Close() { s.client.close() }
