package main

import (
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/access"
	"github.com/nationtech/harmony-fleet/operator/enrol"
	"github.com/nationtech/harmony-fleet/operator/openbao"
	"github.com/nationtech/harmony-fleet/operator/roster"
)

// key is a device's own.
type key struct {
	nkeys.KeyPair
	public string
}

func (s *site) key() key {
	s.Helper()
	pair, err := nkeys.CreateUser()
	s.must(err)
	public, err := pair.PublicKey()
	s.must(err)
	return key{pair, public}
}

// as are the options of the device that has the key.
func (k key) as(id wire.DeviceID) []nats.Option {
	return []nats.Option{nats.UserInfo(string(id), ""), nats.Nkey(k.public, k.Sign)}
}

// join shows the broker a token of enrolment and signs with the key.
func (s *site) join(id wire.DeviceID, token string, k key) error {
	return s.dial(id, k, nats.Token(token))
}

// dial connects once as the device with the key.
func (s *site) dial(id wire.DeviceID, k key, more ...nats.Option) error {
	nc, err := nats.Connect(s.broker.URL(), append(append(k.as(id), nats.NoReconnect(), nats.Timeout(30*time.Second)), more...)...)
	if err == nil {
		nc.Close()
	}
	return err
}

// admin is the store of policies as a person with the documented rights has it. In
// the cluster nothing is left of other tests.
func (s *site) admin() enrol.Store {
	s.Helper()
	if s.plane != nil {
		return s.adminHere()
	}
	person, err := s.auth.Bao.Person(s.Context())
	s.must(err)
	s.Setenv("BAO_TOKEN", person)
	a, err := openbao.NewAdmin(s.auth.Bao.Address(), "fleet")
	s.must(err)
	s.Cleanup(a.Close)
	return a
}

func (s *site) adminHere() enrol.Store {
	s.Helper()
	var rules []rbacv1.PolicyRule
	for _, role := range access.ClusterRoles() {
		if role.Name == access.Enroll {
			rules = role.Rules
		}
	}
	kube, _, err := s.plane.Account(s.Context(), s.TempDir(), "person", rules)
	s.must(err)
	a, err := roster.NewAdmin(kube)
	s.must(err)
	s.Cleanup(a.Close)
	for _, id := range []wire.DeviceID{"pi-7", "pi-8", "pi-9"} {
		s.eventually("the role counts", func() bool { _, err := a.Records(s.Context(), id); return err == nil })
		s.must(a.DestroyPolicy(s.Context(), id, s.records(a, id).Version))
		s.must(a.DropRevocation(s.Context(), id))
	}
	return a
}

func (s *site) records(a enrol.Store, id wire.DeviceID) policy.Records {
	s.Helper()
	r, err := a.Records(s.Context(), id)
	s.must(err)
	return r
}

// invite writes the policy of a device and its token.
func (s *site) invite(a enrol.Store, id wire.DeviceID, validFor time.Duration) policy.Token {
	s.Helper()
	s.must(a.PutPolicy(s.Context(), id, policy.Policy{Labels: map[string][]string{"site": {"berlin"}}}, s.records(a, id).Version))
	token := policy.NewToken(id)
	s.must(a.PutEnrolment(s.Context(), id, token.Enrolment(time.Now().Add(validFor))))
	return token
}

// member is a device that has joined, and is known to every replica.
func (s *site) member(a enrol.Store, id wire.DeviceID) []nats.Option {
	s.Helper()
	k := s.key()
	s.must(s.join(id, s.invite(a, id, time.Hour).Text(), k))
	s.eventually("it is let in", func() bool { return s.dial(id, k) == nil })
	return k.as(id)
}

// logged counts the lines of all replicas that have the words.
func (s *site) logged(words ...string) (n int) {
	s.Helper()
	for _, file := range s.logs {
		data, err := os.ReadFile(file)
		s.must(err)
	lines:
		for line := range strings.Lines(string(data)) {
			for _, word := range words {
				if !strings.Contains(line, word) {
					continue lines
				}
			}
			n++
		}
	}
	return n
}

// TestJoin: a device has its key written into its policy, once, and is the device
// from then on; what else was decided of it stays. A lost answer is asked for
// again, and whoever replays the token is refused.
func TestJoin(t *testing.T) {
	eachStore(t, func(s *site) {
		s.start()
		s.start()
		a := s.admin()
		token := s.invite(a, "pi-7", time.Hour)
		own, thief := s.key(), s.key()
		if err := s.dial("pi-7", own); !errors.Is(err, nats.ErrAuthorization) {
			s.Errorf("before it joined: %v", err)
		}
		s.must(s.join("pi-7", token.Text(), own))
		records, err := a.Records(s.Context(), "pi-7")
		s.must(err)
		if records.Policy == nil || records.Policy.NKey != own.public || !records.Policy.Allows("site", "berlin") || records.Enrolment != nil {
			s.Errorf("the store has %+v, %+v", records.Policy, records.Enrolment)
		}
		s.must(s.join("pi-7", token.Text(), own))
		s.eventually("every replica knows the key", func() bool { return s.dial("pi-7", own) == nil })
		if err := s.join("pi-7", token.Text(), thief); !errors.Is(err, nats.ErrAuthorization) {
			s.Errorf("a replay: %v", err)
		}
		s.eventually("the replay is told", func() bool {
			return s.logged("denied", "pi-7", "was used, with another key", `"host":"127.0.0.1"`) == 1
		})
		if n := s.logged("enrolled", `"device":"pi-7"`, own.public, `"host":"127.0.0.1"`); n != 1 {
			s.Errorf("told %d times who joined", n)
		}
		secret := token.Text()[len("fleet-join-v1.pi-7."):]
		if s.logged(secret) > 0 || s.logged(token.Digest()) > 0 {
			s.Error("the log has the token")
		}
	})
}

// TestJoinRefused: what does not fit lets nobody in and uses nothing up.
func TestJoinRefused(t *testing.T) {
	eachStore(t, func(s *site) {
		s.start()
		a := s.admin()
		token, late := s.invite(a, "pi-7", time.Hour), s.invite(a, "pi-8", -time.Second)
		own := s.key()
		for reason, c := range map[string]struct {
			id    wire.DeviceID
			token string
			more  []nats.Option
			log   string
		}{
			"too late":                 {"pi-8", late.Text(), nil, "the token of enrolment has expired"},
			"made up":                  {"pi-7", policy.NewToken("pi-7").Text(), nil, "not a token of enrolment that was given out"},
			"of nobody":                {"pi-9", policy.NewToken("pi-9").Text(), nil, "there is no policy"},
			"of another device":        {"pi-8", token.Text(), nil, `brings a token of enrolment of \"pi-7\"`},
			"cut off":                  {"pi-7", token.Text()[:40], nil, "the last part is damaged"},
			"a wildcard":               {"pi-7", strings.Replace(token.Text(), "pi-7", "*", 1), nil, "not a DNS label"},
			"a path":                   {"pi-7", strings.Replace(token.Text(), "pi-7", "../x", 1), nil, "it looks like"},
			"the signature of another": {"pi-7", token.Text(), []nats.Option{nats.Nkey(own.public, s.key().Sign)}, "did not sign with the key"},
		} {
			s.Run(reason, func(t *testing.T) {
				if err := s.dial(c.id, own, append([]nats.Option{nats.Token(c.token)}, c.more...)...); !errors.Is(err, nats.ErrAuthorization) {
					t.Errorf("got %v", err)
				}
				s.eventually("it is told why", func() bool { return s.logged("denied", c.log) > 0 })
			})
		}
		nc, err := nats.Connect(s.broker.URL(), nats.Token(token.Text()), nats.NoReconnect(), nats.Timeout(30*time.Second))
		if err == nil {
			nc.Close()
			s.Error("let in without a key")
		}
		s.must(s.join("pi-7", token.Text(), own))
	})
}

// TestJoinRace: of many that bring one token to two replicas at the same time,
// exactly one gets in.
func TestJoinRace(t *testing.T) {
	eachStore(t, func(s *site) {
		s.start()
		s.start()
		a := s.admin()
		token := s.invite(a, "pi-7", time.Hour)
		keys := make([]key, 8)
		won := make([]bool, len(keys))
		for i := range keys {
			keys[i] = s.key()
		}
		var racing sync.WaitGroup
		for i, k := range keys {
			racing.Go(func() { won[i] = s.join("pi-7", token.Text(), k) == nil })
		}
		racing.Wait()
		records, err := a.Records(s.Context(), "pi-7")
		s.must(err)
		winners := 0
		for i, k := range keys {
			if won[i] {
				winners++
				if records.Policy.NKey != k.public {
					s.Errorf("device %d was told yes, and the policy has another's key", i)
				}
			}
		}
		// All may have to try again when the machine is busy, and then one still wins.
		for i := 0; winners == 0 && i < len(keys); i++ {
			if s.join("pi-7", token.Text(), keys[i]) == nil {
				winners++
			}
		}
		if winners != 1 || s.logged(`"msg":"enrolled"`) != 1 {
			s.Errorf("%d were told yes, %d keys were written", winners, s.logged(`"msg":"enrolled"`))
		}
	})
}

// TestReplicaDiesWhileJoining: a replica wrote the key and died before it deleted
// the token. The same device gets in, and the token is of no use to another.
func TestReplicaDiesWhileJoining(t *testing.T) {
	s := newSite(t)
	s.start()
	a := s.admin()
	token := s.invite(a, "pi-7", time.Hour)
	own, thief := s.key(), s.key()
	s.must(a.PutPolicy(t.Context(), "pi-7", policy.Policy{NKey: own.public}, "1")) // what the dead one did
	if err := s.join("pi-7", token.Text(), thief); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("another: %v", err)
	}
	s.must(s.join("pi-7", token.Text(), own))
	records, err := a.Records(t.Context(), "pi-7")
	s.must(err)
	if records.Enrolment != nil || records.Policy.NKey != own.public {
		t.Errorf("the store has %+v, %+v", records.Policy, records.Enrolment)
	}
}

// TestJoinWithoutStore: there is no answer, and the token is good afterwards.
func TestJoinWithoutStore(t *testing.T) {
	eachStore(t, func(s *site) {
		s.start()
		a := s.admin()
		known := s.member(a, "pi-8")
		token := s.invite(a, "pi-7", time.Hour)
		own := s.key()
		stop, restart := func() error { s.auth.Bao.Kill(); return nil }, func() error { return s.auth.Bao.Restart(s.Context()) }
		if s.plane != nil {
			stop, restart = s.plane.StopAPIServer, func() error { return s.plane.StartAPIServer(s.Context()) }
		}
		s.must(stop())
		if err := s.join("pi-7", token.Text(), own); err == nil {
			s.Error("let in without the store")
		}
		s.eventually("it is told", func() bool { return s.logged("unavailable") > 0 })
		if s.logged("denied", "pi-7") > 0 {
			s.Error("an outage counts as a no")
		}
		if _, err := s.connect(known...); err != nil {
			s.Errorf("a known device: %v", err)
		}
		s.must(restart())
		s.eventually("it joins", func() bool { return s.join("pi-7", token.Text(), own) == nil })
	})
}

// TestSaysWhatItRunsWith: with neither a provider nor OpenBao.
func TestSaysWhatItRunsWith(t *testing.T) {
	s := newSiteHere(t)
	s.start()
	if _, err := s.connect(nats.Token("e30.e30.e30")); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a token: %v", err)
	}
	for _, words := range [][]string{
		{"the cluster keeps the policies of devices", s.plane.Config().Host},
		{"answering the broker", "devices log in by keys of their own alone"},
		{"denied", "there is no provider of tokens: oidc.issuer is not set"},
	} {
		s.eventually("the log has "+words[0], func() bool { return s.logged(words...) == 1 })
	}
}
