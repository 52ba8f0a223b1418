package main_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/agent/config"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/auth"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/process"
)

// site is a fleet that devices can join: a broker with TLS, fleet-callout and
// OpenBao.
type site struct {
	*testing.T
	broker *broker.Broker
	auth   *auth.Auth
	log    string // file of fleet-callout
	ca     string // as the command has it
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{T: t}
	var err error
	s.broker, err = broker.Start(t.Context(), broker.Options{Callout: true, TLS: true})
	s.must(err)
	t.Cleanup(s.broker.Stop)
	s.auth, err = auth.Start(t.Context(), auth.Options{Dir: t.TempDir(), Callout: s.broker.Callout()})
	s.must(err)
	t.Cleanup(s.auth.Stop)
	s.ca = base64.RawURLEncoding.EncodeToString(der(t, s.broker.NATS().CAFile))
	file, ready, err := s.auth.Replica("callout")
	s.must(err)
	s.log = file + ".log"
	p, err := process.Start(process.Spec{Path: calloutBinary, Args: []string{"--config", file}, Log: s.log})
	s.must(err)
	t.Cleanup(func() { p.Stop(0) })
	s.must(p.WaitReady(t.Context(), func(ctx context.Context) error { return process.Answers(ctx, ready) }))
	return s
}

// der is the first certificate of a file.
func der(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	return block.Bytes
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// invite is what `kubectl fleet enroll` leaves in OpenBao.
func (s *site) invite(id wire.DeviceID, validFor time.Duration) policy.Token {
	s.Helper()
	token := policy.NewToken(id)
	e := token.Enrolment(time.Now().Add(validFor))
	s.must(s.auth.Bao.PutPolicy(s.Context(), id, policy.Policy{Labels: map[string][]string{"site": {"berlin"}}}))
	s.must(s.auth.Bao.PutSecret(s.Context(), "fleet", "enrolments/"+string(id), map[string]any{"sha256": e.Digest, "expires": e.Expires}))
	return token
}

// args are those of the printed command, for a device whose files are in dir.
func (s *site) args(dir string, token policy.Token) []string {
	s.Helper()
	s.must(os.MkdirAll(filepath.Join(dir, "conf.d"), 0o700))
	own := fmt.Sprintf("[agent]\nstate_dir = %q\n", filepath.Join(dir, "state")) // not that of this machine
	s.must(os.WriteFile(filepath.Join(dir, "conf.d", "own.toml"), []byte(own), 0o600))
	return []string{"join", "--config", filepath.Join(dir, "config.toml"), "--device-id", string(token.Device), "--url", s.broker.URL(),
		"--trusted-key", s.broker.TrustedKeys()[0], "--ca", s.ca, token.Text()}
}

// callout waits until fleet-callout has logged the words.
func (s *site) callout(words ...string) {
	s.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		log, err := os.ReadFile(s.log)
		s.must(err)
		for line := range strings.Lines(string(log)) {
			found := true
			for _, word := range words {
				found = found && strings.Contains(line, word)
			}
			if found {
				return
			}
		}
		if time.Now().After(end) {
			s.Fatalf("fleet-callout has not logged %q in a minute:\n%s", words, log)
		}
	}
}

// files of a folder with their content.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		found[strings.TrimPrefix(path, dir+"/")] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestJoin: the printed command makes a key that only its owner can read, and a
// configuration with which the device logs in. It is of no use a second time,
// neither here nor elsewhere.
func TestJoin(t *testing.T) {
	s := newSite(t)
	token := s.invite("pi-4", time.Hour)
	dir := filepath.Join(t.TempDir(), "etc")
	out, code := fleetAgent(t, nil, s.args(dir, token)...)
	if code != 0 {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
	expect(t, out, "made the device's key in "+dir, "joined as device pi-4", "systemctl enable --now fleet-agent")
	cfg, err := config.Load(filepath.Join(dir, "config.toml"))
	s.must(err)
	info, err := os.Stat(cfg.Credentials.SeedFile)
	s.must(err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %s", info.Mode())
	}
	out, _ = fleetAgent(t, nil, "check", "--config", filepath.Join(dir, "config.toml"))
	expect(t, out, "ok    configuration", "device pi-4", "ok    broker", "with TLS")

	before := files(t, dir)
	out, code = fleetAgent(t, nil, s.args(dir, token)...)
	if code != 1 {
		t.Errorf("again: exit code %d", code)
	}
	expect(t, out, `this device is configured already, as device "pi-4"`, "move the file away", "nothing was changed")
	if after := files(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("it had %v, and has %v", before, after)
	}

	thief := t.TempDir()
	out, code = fleetAgent(t, nil, s.args(thief, token)...)
	if code != 1 {
		t.Errorf("a replay: exit code %d", code)
	}
	expect(t, out, "the broker did not take the token of enrolment", "It was used or withdrawn", "kubectl fleet re-enroll pi-4")
	s.callout(`"msg":"denied"`, "pi-4", "was used, with another key")
	if _, err := os.Stat(filepath.Join(thief, "config.toml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the replay has a configuration: %v", err)
	}
}

// TestJoinRefused: what is wrong is said, with what to do, and no configuration is
// written.
func TestJoinRefused(t *testing.T) {
	s := newSite(t)
	good, late := s.invite("pi-4", time.Hour), s.invite("pi-5", -time.Second)
	owned := filepath.Join(t.TempDir(), "config.toml")
	s.must(os.WriteFile(owned, []byte("not what the agent writes"), 0o600))
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"expired":                {s.args(t.TempDir(), late), 1, "the broker did not take the token of enrolment"},
		"made up":                {s.args(t.TempDir(), policy.NewToken("pi-4")), 1, "the broker did not take the token of enrolment"},
		"a flag after the token": {append(s.args(t.TempDir(), good), "--url"), 2, "want one TOKEN after the flags"},
		"a broker without TLS":   {replaced(s.args(t.TempDir(), good), s.broker.URL(), "nats://192.0.2.1:4222"), 1, "must begin with tls://"},
		"a broker that is away":  {replaced(s.args(t.TempDir(), good), s.broker.URL(), "tls://127.0.0.1:1"), 1, "the token is not used up: run the same command again"},
		"an unknown certificate": {without(s.args(t.TempDir(), good), "--ca"), 1, "certificate"},
		"half a certificate":     {replaced(s.args(t.TempDir(), good), s.ca, s.ca[:40]), 1, "--ca: no certificates; copy the whole command"},
		"another device's":       {replaced(s.args(t.TempDir(), good), "pi-4", "pi-5"), 1, `--device-id is "pi-5", and the token is for device "pi-4"`},
		"half a token":           {replaced(s.args(t.TempDir(), good), good.Text(), good.Text()[:40]), 1, "copy all of it"},
		"no operator to trust":   {without(s.args(t.TempDir(), good), "--trusted-key"), 1, "trusted_keys"},
		"an owner's file":        {s.args(filepath.Dir(owned), good), 1, owned},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := fleetAgent(t, nil, c.args...)
			if code != c.code || !strings.Contains(out, c.want) {
				t.Errorf("exit code %d, want %d with %q:\n%s", code, c.code, c.want, out)
			}
			if _, err := os.Stat(c.args[2]); c.args[2] != owned && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("there is a configuration: %v", err)
			}
		})
	}
	s.callout(`"msg":"denied"`, "pi-5", "the token of enrolment has expired at")
	if left := files(t, filepath.Dir(owned)); len(left) != 2 || left["config.toml"] != "not what the agent writes" {
		t.Errorf("beside an owner's file: %v", left)
	}
	// Nothing of that used the token up.
	if out, code := fleetAgent(t, nil, s.args(t.TempDir(), good)...); code != 0 {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

// replaced is the arguments with another one in the place of one.
func replaced(args []string, old, by string) []string {
	for i, arg := range args {
		if arg == old {
			args[i] = by
		}
	}
	return args
}

// without is the arguments without a flag and its value.
func without(args []string, flag string) (rest []string) {
	for i := 0; i < len(args); i++ {
		if args[i] == flag {
			i++
			continue
		}
		rest = append(rest, args[i])
	}
	return rest
}

// TestJoinFromStandardInput: other users of the device need not see the token.
func TestJoinFromStandardInput(t *testing.T) {
	s := newSite(t)
	token := s.invite("pi-4", time.Hour)
	cmd := exec.CommandContext(t.Context(), binary, replaced(s.args(t.TempDir(), token), token.Text(), "-")...)
	cmd.Stdin = strings.NewReader(token.Text() + "\n")
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("joined as device pi-4")) {
		t.Errorf("%v:\n%s", err, out)
	}
}

// TestJoinIsRepeated: a join that could not end, because the broker was away or the
// configuration could not be written, goes on with its key.
func TestJoinIsRepeated(t *testing.T) {
	s := newSite(t)
	token := s.invite("pi-4", time.Hour)
	dir := t.TempDir()
	away := replaced(s.args(dir, token), s.broker.URL(), "tls://127.0.0.1:1")
	if out, code := fleetAgent(t, nil, away...); code != 1 {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
	made := files(t, dir)
	seeds, err := filepath.Glob(filepath.Join(dir, "*.seed"))
	s.must(err)
	if len(seeds) != 1 {
		t.Fatalf("there is %v", made)
	}
	out, code := fleetAgent(t, nil, s.args(dir, token)...)
	if code != 0 {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
	expect(t, out, "going on with the key of an earlier try")
	s.must(os.Remove(filepath.Join(dir, "conf.d", "10-joined.toml"))) // as if the power had failed before it was written
	if out, code := fleetAgent(t, nil, s.args(dir, token)...); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
	seed, err := os.ReadFile(seeds[0])
	s.must(err)
	if string(seed) != made[filepath.Base(seeds[0])] {
		t.Error("the key is another one")
	}
	out, _ = fleetAgent(t, nil, "check", "--config", filepath.Join(dir, "config.toml"))
	expect(t, out, "ok    broker")
}

// TestJoinsRace: of two devices with one token exactly one is in.
func TestJoinsRace(t *testing.T) {
	s := newSite(t)
	token := s.invite("pi-4", time.Hour)
	var racing sync.WaitGroup
	var outputs [2]string
	var codes [2]int
	for i := range outputs {
		args := s.args(t.TempDir(), token)
		racing.Go(func() { outputs[i], codes[i] = fleetAgent(t, nil, args...) })
	}
	racing.Wait()
	if codes[0]+codes[1] != 1 {
		t.Errorf("exit codes %v:\n%s\n%s", codes, outputs[0], outputs[1])
	}
	s.callout(`"msg":"denied"`, "pi-4", "was used, with another key")
}

// TestJoinKeepsToItsLife: a device does not go on with what it ran as another one,
// and what its owner wrote before it joined counts.
func TestJoinKeepsToItsLife(t *testing.T) {
	s := newSite(t)
	token := s.invite("pi-4", time.Hour)
	dir := t.TempDir()
	args := s.args(dir, token)
	state, err := store.Open(filepath.Join(dir, "state"))
	s.must(err)
	s.must(state.SaveReport(store.Report{Device: "pi-3"}))
	out, code := fleetAgent(t, nil, args...)
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	expect(t, out, `was to run as "pi-3": move it away to join as "pi-4"; nothing was changed`)
	s.must(state.SaveReport(store.Report{Device: "pi-4"}))
	broken := filepath.Join(dir, "conf.d", "broken.toml")
	s.must(os.WriteFile(broken, []byte("[labels\n"), 0o600))
	if out, code = fleetAgent(t, nil, args...); code != 1 || !strings.Contains(out, broken+":1:") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	s.must(os.WriteFile(broken, []byte("[labels]\nsite = \"berlin\"\n"), 0o600))
	if out, code = fleetAgent(t, nil, args...); code != 0 {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	cfg, err := config.Load(filepath.Join(dir, "config.toml"))
	s.must(err)
	if cfg.Labels["site"] != "berlin" {
		t.Errorf("the configuration is %+v", cfg)
	}
}
