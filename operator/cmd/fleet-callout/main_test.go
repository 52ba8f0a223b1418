package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/program"
	"github.com/nationtech/harmony-fleet/operator/roster"
	"github.com/nationtech/harmony-fleet/smoke/auth"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/kube"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/programs"
)

// binary is the program, which TestMain builds.
var binary string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "fleet-callout-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := programs.Build(context.Background(), dir, "", programs.Callout); err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "fleet-callout")
	return kube.RunTests(m)
}

func TestCommand(t *testing.T) {
	for name, c := range map[string]struct {
		args       []string
		want       string // in the output
		wantsError string // in the error
	}{
		"help":             {[]string{"--help"}, "devicePrefix: device-", ""},
		"version":          {[]string{"--version"}, "fleet-callout version", ""},
		"unknown flag":     {[]string{"--confg", "x"}, "", "unknown flag: --confg"},
		"no configuration": {[]string{"--config", "/does/not/exist"}, "", "/does/not/exist"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			cmd := command()
			cmd.SetArgs(c.args)
			cmd.SetOut(&out)
			cmd.SetErr(&out)
			err := cmd.ExecuteContext(t.Context())
			if c.wantsError == "" && err != nil || c.wantsError != "" && (err == nil || !strings.Contains(err.Error(), c.wantsError)) {
				t.Errorf("got error %v, want %q in it", err, c.wantsError)
			}
			if !strings.Contains(out.String(), c.want) {
				t.Errorf("printed %s\nwant %q in it", out.String(), c.want)
			}
		})
	}
}

// TestExampleIsComplete: what --help shows is a configuration that works.
func TestExampleIsComplete(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(program.Example(example())), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := program.ReadConfig(file, config.CalloutDefaults()); err != nil {
		t.Error(err)
	}
}

// site is everything around the program: the broker that asks it, and what it asks
// itself: a provider and OpenBao, or the cluster.
type site struct {
	*testing.T
	broker *broker.Broker
	auth   *auth.Auth         // nil without a provider and OpenBao
	plane  *kube.ControlPlane // nil with OpenBao
	logs   []string           // files, one of each replica

	// replica writes the configuration file of one; env is for all of them.
	replica func(name string) (file, readyURL string, err error)
	env     []string
}

// newSite has a provider and OpenBao, and two devices that bring tokens.
func newSite(t *testing.T) *site {
	t.Helper()
	s := bareSite(t)
	var err error
	s.auth, err = auth.Start(t.Context(), auth.Options{Dir: t.TempDir(), Callout: s.broker.Callout()})
	s.must(err)
	t.Cleanup(s.auth.Stop)
	s.replica = s.auth.Replica
	for _, id := range []wire.DeviceID{"pi-1", "pi-2"} {
		_, err := s.auth.Enrol(t.Context(), id, policy.Policy{})
		s.must(err)
	}
	return s
}

// newSiteHere has a cluster and nothing else.
func newSiteHere(t *testing.T) *site {
	t.Helper()
	s := bareSite(t)
	s.plane = kube.Shared(t)
	s.must(kube.InstallCRDs(t.Context(), s.plane.Config(), crds.All()))
	dir := t.TempDir()
	_, kubeconfig, err := s.plane.Account(t.Context(), dir, "fleet-callout", roster.CalloutRules())
	s.must(err)
	s.env = []string{"KUBECONFIG=" + kubeconfig}
	s.replica = func(name string) (string, string, error) { return auth.Replica(s.broker.Callout(), dir, name) }
	return s
}

func bareSite(t *testing.T) *site {
	t.Helper()
	b, err := broker.Start(t.Context(), broker.Options{Callout: true, LoginTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return &site{T: t, broker: b}
}

// eachStore does a test with either store of policies.
func eachStore(t *testing.T, test func(*site)) {
	t.Run("OpenBao", func(t *testing.T) { test(newSite(t)) })
	t.Run("the cluster", func(t *testing.T) { test(newSiteHere(t)) })
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// start runs a replica and returns when it is ready.
func (s *site) start() *process.Process {
	s.Helper()
	file, readyURL, err := s.replica(fmt.Sprint("callout-", len(s.logs)+1))
	s.must(err)
	s.logs = append(s.logs, file+".log")
	p, err := process.Start(process.Spec{Path: binary, Args: []string{"--config", file}, Env: s.env, Log: file + ".log"})
	s.must(err)
	s.Cleanup(func() {
		p.Stop(0)
		if log, err := os.ReadFile(file + ".log"); err == nil && s.Failed() {
			s.Logf("fleet-callout's log:\n%s", log)
		}
	})
	s.eventually("it is ready", func() bool {
		response, err := http.Get(readyURL)
		if err != nil {
			return false
		}
		defer func() { _ = response.Body.Close() }()
		defer http.DefaultClient.CloseIdleConnections()
		return response.StatusCode == http.StatusOK
	})
	return p
}

func (s *site) eventually(what string, holds func() bool) {
	s.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("not in a minute: %s", what)
		}
	}
}

// token lets a device in that the provider knows.
func (s *site) token(id wire.DeviceID) nats.Option {
	s.Helper()
	claims, err := s.auth.Provider.Claims("device-" + string(id))
	s.must(err)
	token, err := s.auth.Provider.Token(claims)
	s.must(err)
	return nats.Token(token)
}

// connect connects as a device; closed ends with the connection.
func (s *site) connect(as ...nats.Option) (closed <-chan struct{}, err error) {
	s.Helper()
	ended := make(chan struct{})
	nc, err := nats.Connect(s.broker.URL(), append([]nats.Option{nats.NoReconnect(), nats.Timeout(10 * time.Second),
		nats.ClosedHandler(func(*nats.Conn) { close(ended) })}, as...)...)
	if err == nil {
		s.Cleanup(nc.Close)
	}
	return ended, err
}

// TestRevokeCutsOne: two replicas, two devices, one of which is revoked: it is cut
// off and stays out, and the other one notices nothing.
func TestRevokeCutsOne(t *testing.T) {
	eachStore(t, func(s *site) {
		s.start()
		s.start()
		a := s.admin()
		thief, owner := s.member(a, "pi-8"), s.member(a, "pi-9")
		stolen, err := s.connect(thief...)
		s.must(err)
		kept, err := s.connect(owner...)
		s.must(err)
		s.must(a.PutRevocation(s.Context(), "pi-8", policy.Revocation{Reason: "stolen"}, s.records(a, "pi-8").RevocationVersion))
		select {
		case <-stolen:
		case <-time.After(30 * time.Second):
			s.Error("the revoked device stays connected")
		}
		// A replica may hear of it later than the other, let it in once more, and cut
		// it off again.
		s.eventually("it stays out", func() bool { _, err := s.connect(thief...); return errors.Is(err, nats.ErrAuthorization) })
		select {
		case <-kept:
			s.Error("the other device was cut off")
		default:
		}
	})
}

// TestReplicaDies: the other one answers.
func TestReplicaDies(t *testing.T) {
	s := newSite(t)
	first, _ := s.start(), s.start()
	first.Stop(0)
	for range 20 {
		s.eventually("a device gets in", func() bool { _, err := s.connect(s.token("pi-1")); return err == nil })
	}
}

// TestOutages: provider and OpenBao are down; devices that were here before come
// back, and others wait.
func TestOutages(t *testing.T) {
	s := newSite(t)
	s.start()
	known, unknown := s.token("pi-1"), s.token("pi-2")
	_, err := s.connect(known)
	s.must(err)
	s.auth.Provider.Stop()
	s.auth.Bao.Kill()
	if _, err := s.connect(known); err != nil {
		t.Errorf("a known device: %v", err)
	}
	if _, err := s.connect(unknown); err == nil {
		t.Error("a device that was never here was let in without its policy")
	}
	s.must(s.auth.Bao.Restart(t.Context()))
	s.eventually("the other gets in", func() bool { _, err := s.connect(unknown); return err == nil })
}
