package bus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

// holds reports whether the agent holds exactly these scores.
func (a *agent) holds(generation uint64, scores map[wire.DeploymentID]string) bool {
	held := a.workloads.Desired()
	if held.Generation != generation || len(held.Deployments) != len(scores) {
		return false
	}
	for id, text := range scores {
		if w := held.Deployments[id]; string(w.Score) != text || w.Digest != score.DigestOf([]byte(text)) {
			return false
		}
	}
	return true
}

// peaceful fails the test when the broker refused anything.
func (a *agent) peaceful(t *testing.T) {
	t.Helper()
	if n := a.log.having("permission"); n > 0 {
		t.Errorf("the broker refused %d subjects in normal operation", n)
	}
}

func TestDesiredState(t *testing.T) {
	f := newFleet(t, "pi-4")
	first := scores(20)
	f.write("pi-4", 1, first)
	a := f.run(f.options("pi-4"))
	f.eventually("what was there before is applied", func() bool { return a.holds(1, first) })

	second := scores(21)
	second[dep("web-3")] = "score 3, changed"
	delete(second, dep("web-7"))
	f.write("pi-4", 2, second)
	f.eventually("a change is applied", func() bool { return a.holds(2, second) })

	f.write("pi-4", 3, nil)
	f.eventually("an empty manifest removes all", func() bool { return a.holds(3, nil) })
	if n := a.workloads.count(); n != 3 {
		t.Errorf("Apply was called %d times for 3 generations", n)
	}
	a.peaceful(t)
}

func TestDesiredStateIsKept(t *testing.T) {
	held := store.Desired{Generation: 5, Deployments: map[wire.DeploymentID]store.Workload{
		dep("web"): {Revision: 1, Digest: score.DigestOf([]byte("v1")), Score: []byte("v1")},
	}}
	cases := map[string]struct {
		reason string
		write  func(*fleet)
		log    string
	}{
		"Nothing": {
			reason: "a broker that knows nothing of the device, as after the loss of its store",
			write:  func(*fleet) {},
			log:    "no such key",
		},
		"Deleted": {
			reason: "a deleted manifest is not an empty one",
			write: func(f *fleet) {
				f.request(&nats.Msg{
					Subject: wire.DesiredState.Subject("pi-4"),
					Header:  nats.Header{wire.HeaderOperation: {wire.OperationDelete}},
				})
			},
			log: "no such key",
		},
		"Malformed": {
			reason: "a manifest that cannot be read says nothing",
			write: func(f *fleet) {
				f.put("pi-4", `{"manifest":{"generation":9,"deployments":{"web":{}}},"signatures":[]}`)
			},
			log: "malformed payload",
		},
		"Unsigned": {
			reason: "a broker that writes a manifest itself",
			write: func(f *fleet) {
				f.forge("pi-4", func(signed string) string {
					manifest, _, _ := strings.Cut(signed, `"signatures"`)
					return manifest + `"signatures":[]}`
				})
			},
			log: "not signed by a trusted key",
		},
		"Changed": {
			reason: "a broker that changes what is signed",
			write: func(f *fleet) {
				f.forge("pi-4", func(signed string) string { return strings.Replace(signed, `"generation":9`, `"generation":10`, 1) })
			},
			log: "not signed by a trusted key",
		},
		"Another's": {
			reason: "a broker that hands out another device's manifest",
			write: func(f *fleet) {
				signed, err := f.broker.Manifest("other", 9, nil)
				if err != nil {
					f.Fatal(err)
				}
				f.put("pi-4", string(signed))
			},
			log: "manifest of device \\\"other\\\"",
		},
		"Expired": {
			reason: "a broker that hands out what was signed long ago",
			write: func(f *fleet) {
				signed, err := f.broker.Signer().Sign("pi-4", wire.Manifest{Generation: 9, NotAfter: time.Now().Add(-time.Hour)})
				if err != nil {
					f.Fatal(err)
				}
				f.put("pi-4", string(signed))
			},
			log: "valid until",
		},
		"Stale": {
			reason: "a broker restored from an old copy",
			write:  func(f *fleet) { f.write("pi-4", 4, nil) },
			log:    "generation 4 is below 5",
		},
		"Same": {
			reason: "the same generation is not applied again",
			write:  func(f *fleet) { f.write("pi-4", 5, nil) },
			log:    "connected to the broker",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, "pi-4")
			tc.write(f)
			options := f.options("pi-4")
			options.Workloads = &workloads{held: held}
			var refused atomic.Value
			options.Refused = func(problem error) { refused.Store(fmt.Sprint(problem)) }
			var looks atomic.Int32
			options.Now = func() time.Time { return time.Now().Add(time.Duration(looks.Add(1)) * time.Second) }
			a := f.run(options, func(tm *timing) { tm.audit = 10 * time.Millisecond })
			f.eventually(tc.reason, func() bool { return a.log.having(tc.log) > 0 })
			time.Sleep(100 * time.Millisecond) // several more reads
			if diff := cmp.Diff(held, a.workloads.Desired()); diff != "" {
				t.Errorf("%s\nheld: -want +got\n%s", tc.reason, diff)
			}
			if n := a.log.having(tc.log); n != 1 {
				t.Errorf("%s\nlogged %d times, want once", tc.reason, n)
			}
			if told, _ := refused.Load().(string); strings.Contains(tc.log, "signed") && !strings.Contains(told, tc.log) {
				t.Errorf("%s\nthe device is told %q", tc.reason, told)
			}
			f.write("pi-4", 6, scores(1))
			f.eventually("a later generation is applied", func() bool { return a.holds(6, scores(1)) })
			f.eventually("nothing is refused any more", func() bool { return refused.Load() == "<nil>" })
			a.peaceful(t)
		})
	}
}

// TestKeyRotation: trust follows the keys that a signed manifest names, and ends
// with the one that names a key no more.
func TestKeyRotation(t *testing.T) {
	f := newFleet(t, "pi-4")
	old, next := newSeed(t), newSeed(t)
	signer := func(seeds ...[]byte) *wire.Signer {
		s, err := wire.NewSigner(seeds...)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	write := func(generation uint64, s *wire.Signer) {
		signed, err := s.Sign("pi-4", wire.Manifest{Generation: generation, NotAfter: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		f.put("pi-4", string(signed))
	}
	options := f.options("pi-4")
	options.TrustedKeys = signer(old).Keys()
	a := f.run(options, func(tm *timing) { tm.audit = 10 * time.Millisecond })
	applied := func(generation uint64) func() bool {
		return func() bool { return a.workloads.Desired().Generation == generation }
	}
	write(1, signer(next))
	f.eventually("a stranger is refused", func() bool { return a.log.having("not signed by a trusted key") == 1 })
	write(2, signer(old))
	f.eventually("the configured key counts", applied(2))
	write(3, signer(old, next))
	f.eventually("both sign", applied(3))
	write(4, signer(next))
	f.eventually("the new one is enough", applied(4))
	write(5, signer(old))
	f.eventually("the old one counts no more", func() bool { return a.log.having("not signed by a trusted key", signer(old).Keys()[0]) > 1 })
	if held := a.workloads.Desired(); held.Generation != 4 {
		t.Errorf("generation %d of a key that was taken away was applied", held.Generation)
	}
	a.stop()

	// What a person writes into the configuration counts again from then on.
	options.Workloads, options.TrustedKeys = a.workloads, signer(old, next).Keys()
	f.run(options)
	f.eventually("a changed configuration is where trust begins", applied(5))
}

func newSeed(t *testing.T) []byte {
	t.Helper()
	seed, err := wire.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	return seed
}

func TestMissedHint(t *testing.T) {
	// A stream that does not republish sends no hints.
	f := newFleetOf(t, broker.Options{
		Devices: []wire.DeviceID{"pi-4"},
		Shape:   func(c *jetstream.StreamConfig) bool { c.RePublish = nil; return true },
	})
	a := f.run(f.options("pi-4"), func(tm *timing) { tm.audit = 200 * time.Millisecond })
	f.eventually("connected", func() bool { return a.log.having("no manifest") > 0 })
	f.write("pi-4", 1, scores(2))
	f.eventually("the audit finds what no hint told", func() bool { return a.holds(1, scores(2)) })
}

func TestMismatchHeals(t *testing.T) {
	f := newFleet(t, "pi-4")
	wanted := scores(1)
	f.write("pi-4", 1, wanted)
	f.put("pi-4.default.web-0", "another score")
	a := f.run(f.options("pi-4"))
	f.eventually("the mismatch is logged", func() bool { return a.log.having("digest is", "manifest names") > 0 })
	if a.workloads.count() != 0 {
		t.Error("a score with another digest than the manifest's was applied")
	}
	f.put("pi-4.default.web-0", wanted[dep("web-0")])
	f.eventually("the right score is applied without a hint", func() bool { return a.holds(1, wanted) })
}

func TestForgedHint(t *testing.T) {
	f := newFleet(t, "pi-4", "other")
	f.write("pi-4", 1, scores(1))
	a := f.run(f.options("pi-4"))
	f.eventually("applied", func() bool { return a.holds(1, scores(1)) })
	forger := connect(t, f.broker.URL(), f.broker.Provisioner())
	forged, err := f.broker.Manifest("pi-4", 99, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := forger.PublishMsg(&nats.Msg{
		Subject: wire.DesiredHint("pi-4"), Data: forged,
		Header: nats.Header{"Nats-Sequence": {"18446744073709551615"}},
	}); err != nil {
		t.Fatal(err)
	}
	f.eventually("the hint causes reads", func() bool { return a.log.having("older than the last announced write") > 0 })
	time.Sleep(200 * time.Millisecond)
	if !a.holds(1, scores(1)) || a.workloads.count() != 1 {
		t.Error("the content of a hint was applied")
	}
	f.write("pi-4", 2, scores(3))
	f.eventually("later hints still work", func() bool { return a.holds(2, scores(3)) })
}

func TestApplyFails(t *testing.T) {
	f := newFleet(t, "pi-4")
	f.write("pi-4", 1, scores(1))
	options := f.options("pi-4")
	full := &workloads{refuse: errors.New("no space left on device")}
	options.Workloads = full
	a := f.run(options)
	f.eventually("the reason is logged", func() bool { return a.log.having("applying generation 1", "no space left") > 0 })
	full.mu.Lock()
	full.refuse = nil
	full.mu.Unlock()
	f.eventually("applied when there is space again", func() bool { return a.holds(1, scores(1)) })
}

func TestStates(t *testing.T) {
	f := newFleet(t, "pi-4")
	options := f.options("pi-4")
	a := f.run(options)
	if err := errors.Join(
		a.PutInfo(wire.DeviceInfo{Labels: map[string]string{"site": "berlin"}}),
		a.PutState(dep("web"), state("one")), a.PutState(dep("web"), state("two")), a.PutState(dep("db"), state("one")),
	); err != nil {
		t.Fatal(err)
	}
	reads := func(key, message string) func() bool {
		return func() bool {
			msg := f.stored(wire.DeviceStates, key)
			if msg == nil {
				return false
			}
			s, err := wire.DecodeDeviceState(msg.Data)
			return err == nil && s.Message == message
		}
	}
	f.eventually("the last state is stored", reads("pi-4.default.web", "two"))
	f.eventually("the other state is stored", reads("pi-4.default.db", "one"))
	f.eventually("the info is stored", func() bool { return f.stored(wire.DeviceInfos, "pi-4") != nil })
	f.eventually("a heartbeat is stored", func() bool {
		msg := f.stored(wire.DeviceHeartbeats, "pi-4")
		return msg != nil && string(msg.Data) == `{"session":"0123abcd","generation":0}`
	})
	if err := a.PutState(dep("web"), nil); err != nil {
		t.Fatal(err)
	}
	f.eventually("a removal is a delete marker", func() bool {
		msg := f.stored(wire.DeviceStates, "pi-4.default.web")
		return msg != nil && len(msg.Data) == 0 && msg.Header.Get(wire.HeaderOperation) == wire.OperationDelete
	})
	a.peaceful(t)
}

func TestBrokerRestart(t *testing.T) {
	f := newFleet(t, "pi-4")
	var mu sync.Mutex
	var seen []bool
	options := f.options("pi-4")
	options.Connection = func(server string, problem error) {
		mu.Lock()
		defer mu.Unlock()
		if connected := server != ""; connected == (problem != nil) {
			t.Errorf("Connection(%q, %v)", server, problem)
		} else if len(seen) == 0 || seen[len(seen)-1] != connected {
			seen = append(seen, connected)
		}
	}
	a := f.run(options)
	if err := a.PutState(dep("web"), state("one")); err != nil {
		t.Fatal(err)
	}
	f.eventually("stored", func() bool { return f.stored(wire.DeviceStates, "pi-4.default.web") != nil })
	// The broker loses what the agent wrote, as when it is restored from a copy.
	admin := connect(t, f.broker.URL(), f.broker.Provisioner())
	if _, err := admin.Request("$JS.API.STREAM.PURGE."+wire.DeviceStates.Stream(), nil, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := f.broker.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.eventually("the state is written again", func() bool { return f.stored(wire.DeviceStates, "pi-4.default.web") != nil })
	f.write("pi-4", 1, scores(1))
	f.eventually("hints arrive again", func() bool { return a.holds(1, scores(1)) })
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff([]bool{true, false, true}, seen); diff != "" {
		t.Errorf("Connection: -want +got\n%s", diff)
	}
	a.peaceful(t)
}

func TestBrokerStartsLater(t *testing.T) {
	f := newFleet(t, "pi-4")
	options := f.options("pi-4")
	file := filepath.Join(t.TempDir(), "password")
	options.Credentials.PasswordFile, options.Credentials.Password = file, ""
	right := f.broker.Device("pi-4").Password
	a := f.run(options)
	f.eventually("the missing file is named", func() bool { return a.log.having("password_file", "no such file") > 0 })
	if err := os.WriteFile(file, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.eventually("the refused login is named", func() bool { return a.log.having("wrong user or password") > 0 })
	time.Sleep(200 * time.Millisecond) // some more attempts
	if n := a.log.having("wrong user or password"); n != 1 {
		t.Errorf("the same problem was logged %d times", n)
	}
	if err := os.WriteFile(file, []byte(right+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.eventually("connected with the renewed password", func() bool { return a.log.having("connected to the broker") > 0 })
}

func TestWriteWithoutBucket(t *testing.T) {
	f := newFleet(t, "pi-4")
	admin := connect(t, f.broker.URL(), f.broker.Provisioner())
	if _, err := admin.Request("$JS.API.STREAM.DELETE."+wire.DeviceStates.Stream(), nil, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	a := f.run(f.options("pi-4"), func(tm *timing) { tm.request = 300 * time.Millisecond })
	if err := a.PutState(dep("web"), state("one")); err != nil {
		t.Fatal(err)
	}
	f.eventually("the missing bucket shows", func() bool { return a.log.having("broker did not take a value") > 0 })
	if err := f.broker.Restart(t.Context()); err != nil { // creates what is missing
		t.Fatal(err)
	}
	f.eventually("stored once there is a bucket", func() bool { return f.stored(wire.DeviceStates, "pi-4.default.web") != nil })
}

func TestCommands(t *testing.T) {
	f := newFleet(t, "pi-4", "pi-42")
	release := make(chan struct{})
	var slow atomic.Int32
	options := f.options("pi-4")
	options.Commands = map[wire.Verb]Handler{
		wire.VerbPing: func(context.Context, []byte) ([]byte, error) {
			return wire.EncodeReply(wire.PingReply{AgentVersion: "v1"})
		},
		wire.VerbLogs: func(ctx context.Context, request []byte) ([]byte, error) {
			switch string(request) {
			case "wait":
				slow.Add(1)
				select {
				case <-release:
				case <-ctx.Done():
				}
				return []byte("{}"), nil
			case "large":
				return make([]byte, 1000<<10), nil
			case "reason":
				return nil, &wire.CommandError{Reason: wire.CommandNotFound, Message: "no such deployment"}
			}
			return nil, errors.New("plain")
		},
	}
	a := f.run(options)
	f.eventually("connected", func() bool { return a.log.having("connected") > 0 })
	ask := func(id wire.DeviceID, verb wire.Verb, body string) (wire.PingReply, error) {
		msg, err := f.operatorLike(t).Request(wire.CommandSubject(id, verb), []byte(body), 3*time.Second)
		if err != nil {
			return wire.PingReply{}, err
		}
		return wire.DecodeReply[wire.PingReply](msg.Data)
	}
	cases := map[string]struct {
		reason string
		verb   wire.Verb
		body   string
		want   wire.PingReply
	}{
		"Ping":    {"a reply crosses the accounts", wire.VerbPing, "", wire.PingReply{AgentVersion: "v1"}},
		"Reason":  {"an error keeps its reason", wire.VerbLogs, "reason", wire.PingReply{Error: &wire.CommandError{Reason: wire.CommandNotFound, Message: "no such deployment"}}},
		"Plain":   {"other errors are failures", wire.VerbLogs, "plain", wire.PingReply{Error: &wire.CommandError{Reason: wire.CommandFailed, Message: "plain"}}},
		"Large":   {"a reply beyond the permitted size does not end the connection", wire.VerbLogs, "large", wire.PingReply{Error: &wire.CommandError{Reason: wire.CommandFailed, Message: "the reply has 1024000 bytes and may have 786432: ask for less"}}},
		"Unknown": {"a verb of a newer operator", "reboot", "", wire.PingReply{Error: &wire.CommandError{Reason: wire.CommandUnknownVerb, Message: `this agent knows no command "reboot"`}}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := ask("pi-4", tc.verb, tc.body)
			if err != nil {
				t.Fatalf("%s\n%v", tc.reason, err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s\nreply: -want +got\n%s", tc.reason, diff)
			}
		})
	}
	if _, err := ask("pi-42", wire.VerbPing, ""); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a command to an absent device whose id begins alike: %v, want no responders", err)
	}

	var waiting sync.WaitGroup
	for range maxCommands {
		waiting.Go(func() {
			if _, err := ask("pi-4", wire.VerbLogs, "wait"); err != nil {
				t.Errorf("a slow command: %v", err)
			}
		})
	}
	f.eventually("all slow commands are worked on", func() bool { return slow.Load() == maxCommands })
	reply, err := ask("pi-4", wire.VerbPing, "")
	if err != nil || reply.Error == nil || !strings.Contains(reply.Error.Message, "works on 4 commands") {
		t.Errorf("one command too many: %+v, %v", reply, err)
	}
	close(release)
	waiting.Wait()
	if a.log.having("connected to the broker") != 1 {
		t.Error("the connection was lost")
	}
	a.peaceful(t)
}

// operatorLike may send any command.
func (f *fleet) operatorLike(t *testing.T) *nats.Conn {
	return connect(t, f.broker.URL(), f.broker.Provisioner())
}

func TestPrefixesDoNotMix(t *testing.T) {
	f := newFleet(t, "pi-4", "pi-42")
	short, long := f.run(f.options("pi-4")), f.run(f.options("pi-42"))
	f.write("pi-4", 1, scores(1))
	f.eventually("the one applies its own", func() bool { return short.holds(1, scores(1)) })
	f.write("pi-42", 7, scores(2))
	f.eventually("the other applies its own", func() bool { return long.holds(7, scores(2)) })
	if short.workloads.count() != 1 || long.workloads.count() != 1 {
		t.Error("a device applied what was another's")
	}
	short.peaceful(t)
	long.peaceful(t)
}

func TestProbe(t *testing.T) {
	f := newFleet(t, "pi-4", "pi-5")
	f.write("pi-4", 3, scores(1))
	right := f.options("pi-4").Target
	wrong := right
	wrong.Credentials.Password = "wrong"
	other := right
	other.Device = "pi-5"
	nobody := right
	nobody.NATS = v1alpha1.NATSSection{URLs: []string{"nats://127.0.0.1:1"}}
	noTLS := right
	noTLS.NATS = v1alpha1.NATSSection{URLs: []string{strings.Replace(f.broker.URL(), "nats://", "tls://", 1)}}
	cases := map[string]struct {
		reason string
		target Target
		want   Findings
		err    string
	}{
		"Right":       {"all is well", right, Findings{Generation: 3}, ""},
		"NoManifest":  {"a new device has no manifest yet", Target{Device: "pi-5", NATS: f.broker.NATS(), Credentials: f.broker.Device("pi-5")}, Findings{}, ""},
		"Password":    {"the login is refused", wrong, Findings{}, `refused the login of user "pi-4"`},
		"OtherDevice": {"the login is another device's", other, Findings{}, `must be those of device "pi-5"`},
		"Nobody":      {"nothing listens there", nobody, Findings{}, "nothing listens at nats://127.0.0.1:1"},
		"NoTLS":       {"TLS is wanted and not offered", noTLS, Findings{}, "offers no TLS"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := Probe(t.Context(), tc.target)
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("%s\nProbe(): error %v, want %q", tc.reason, err, tc.err)
			}
			if got.Generation != tc.want.Generation {
				t.Errorf("%s\nProbe(): %+v", tc.reason, got)
			}
		})
	}
}
