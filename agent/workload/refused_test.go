package workload_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/agent/workload"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/podman"
)

// starts keeps when containers were to be started.
type starts struct {
	workload.Runtime
	mu  sync.Mutex
	all []time.Time
}

func (s *starts) Do(ctx context.Context, device wire.DeviceID, step reconcile.Step) reconcile.Outcome {
	if step.Action == reconcile.Start {
		s.mu.Lock()
		s.all = append(s.all, time.Now())
		s.mu.Unlock()
	}
	return s.Runtime.Do(ctx, device, step)
}

func (s *starts) times() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all
}

// TestRuntimeRefusesCgroups: on a machine where no container can be started the state
// says why in the runtime's own words, one container waits, and it is tried less and less
// often.
func TestRuntimeRefusesCgroups(t *testing.T) {
	s := newSiteOn(t, podman.Options{Name: "work", NoCgroups: true})
	s.kill()
	tried := &starts{}
	s.start(func(r workload.Runtime) workload.Runtime { tried.Runtime = r; return tried })
	state := s.reaches(s.apply(s.hello("1")), wire.PhaseFailed, reconcile.ReasonCgroupError)
	if !strings.Contains(state.Message, "cgroup") {
		t.Errorf("the state does not say what the runtime said: %q", state.Message)
	}
	s.eventually("four tries", func() bool { return len(tried.times()) >= 4 })
	for i, least := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second} {
		if gap := tried.times()[i+1].Sub(tried.times()[i]); gap < least {
			t.Errorf("try %d came %s after the one before, want %s or more", i+2, gap, least)
		}
	}
	s.mustPS("shop.web.app Created")
	if after := s.reaches(state.Digest, wire.PhaseFailed, reconcile.ReasonCgroupError); after.Message != state.Message {
		t.Errorf("the state became %q", after.Message)
	}
}
