package guide_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/openbao/openbao/api/v2"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/operator/openbao"
	"github.com/nationtech/harmony-fleet/operator/program"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
	server "github.com/nationtech/harmony-fleet/smoke/openbao"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/programs"
)

// project is that of the guide's examples.
const project = "300000000000000001"

// patience bounds every wait, on a machine that has much else to do.
const patience = 2 * time.Minute

// guide is the text with the addresses of this test in it, and what runs for it.
type guide struct {
	*testing.T
	dir, text string
	followed  map[string]bool // sections, by their heading

	zitadel, cluster *oidc.Provider
	bao              *server.Server
	admin            *api.Client
	port             int
	tls              *httptest.Server // never serves; for its certificate
	log              string           // of the callout
}

// replica is a fleet-callout that runs.
type replica struct{ *process.Process }

func newGuide(t *testing.T) *guide {
	t.Helper()
	g := &guide{T: t, dir: t.TempDir(), followed: map[string]bool{}}
	g.tls = httptest.NewTLSServer(nil)
	g.tls.Close()
	var err error
	g.zitadel, err = oidc.Start(t.Context(), oidc.Options{ProjectID: project})
	g.must(err)
	t.Cleanup(g.zitadel.Stop)
	g.cluster, err = oidc.Start(t.Context(), oidc.Options{TLS: g.tls.TLS})
	g.must(err)
	t.Cleanup(g.cluster.Stop)
	g.bao, err = server.Start(t.Context(), server.Options{})
	g.must(err)
	t.Cleanup(g.bao.Stop)
	g.admin, err = g.bao.Client(g.bao.RootToken())
	g.must(err)
	g.port, err = process.FreePort()
	g.must(err)
	g.read()
	g.install()
	return g
}

// read puts this test's addresses and folders into the text.
func (g *guide) read() {
	g.Helper()
	text, err := os.ReadFile("../../docs/guide-zitadel-openbao.md")
	g.must(err)
	g.text = strings.NewReplacer(
		"https://sso.example.com", g.zitadel.Issuer(),
		"https://openbao.example.com:8200", g.bao.Address(),
		"https://kubernetes.default.svc", g.cluster.Issuer(),
		"tls://nats.example.com:4222", fmt.Sprintf("tls://127.0.0.1:%d", g.port),
		"0.0.0.0:4222", fmt.Sprintf("127.0.0.1:%d", g.port),
		"/etc/", g.dir+"/etc/", "/var/lib/", g.dir+"/var/lib/", "/var/run/", g.dir+"/var/run/",
	).Replace(string(text))
}

// install puts programs, certificates and what the guide takes for given into the
// folder.
func (g *guide) install() {
	g.Helper()
	bin := filepath.Join(g.dir, "bin")
	g.must(os.Mkdir(bin, 0o700))
	self, err := os.Executable()
	g.must(err)
	for _, played := range []string{"bao", "curl"} {
		g.must(os.Symlink(self, filepath.Join(bin, played)))
	}
	g.must(programs.Build(g.Context(), bin, "", programs.Broker, programs.Callout, programs.Agent))
	build := exec.CommandContext(g.Context(), "go", "build", "-o", bin+"/", "github.com/nats-io/nkeys/nk")
	if out, err := build.CombinedOutput(); err != nil {
		g.Fatalf("building nk: %v\n%s", err, out)
	}
	accounts, err := os.ReadFile("../../docs/broker-accounts.conf")
	g.must(err)
	g.write("/etc/nats/broker-accounts.conf", accounts)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.tls.Certificate().Raw})
	key, err := x509.MarshalPKCS8PrivateKey(g.tls.TLS.Certificates[0].PrivateKey)
	g.must(err)
	g.write("/etc/nats/tls.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	for _, path := range []string{
		"/etc/nats/tls.crt", "/etc/fleet-callout/ca.crt", "/etc/fleet-operator/ca.crt", "/etc/fleet-agent/ca.crt",
		"/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
	} {
		g.write(path, certificate)
	}
}

func (g *guide) must(err error) {
	g.Helper()
	if err != nil {
		g.Fatal(err)
	}
}

func (g *guide) eventually(what string, holds func() error) {
	g.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			g.Fatalf("not within %s: %s: %v", patience, what, err)
		}
	}
}

// path is where a path of the guide is here.
func (g *guide) path(path string) string { return filepath.Join(g.dir, path) }

func (g *guide) write(path string, content []byte) {
	g.Helper()
	g.must(os.MkdirAll(filepath.Dir(g.path(path)), 0o700))
	g.must(os.WriteFile(g.path(path), content, 0o600))
}

func (g *guide) copy(from, to string) {
	g.Helper()
	content, err := os.ReadFile(g.path(from))
	g.must(err)
	g.write(to, content)
}

var (
	heading = regexp.MustCompile(`(?m)^#+ .*$`)
	fence   = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")
)

// section is what stands below a heading that begins so, up to the next one.
// Comments in blocks look like headings, so these have to be known.
func (g *guide) section(title string) string {
	g.Helper()
	at := strings.Index(g.text, "\n"+title)
	if strings.HasPrefix(g.text, title) {
		at = 0
	}
	if at < 0 {
		g.Fatalf("the guide has no section %q", title)
	}
	body := g.text[at+len(title):]
	for _, loc := range heading.FindAllStringIndex(fence.ReplaceAllStringFunc(body, blank), -1) {
		return body[:loc[0]]
	}
	return body
}

// blank keeps the length of a block and nothing of it.
func blank(block string) string { return strings.Repeat(" ", len(block)) }

// blocks of a section that have this mark.
func (g *guide) blocks(title, mark string) (found []string) {
	g.Helper()
	for _, match := range fence.FindAllStringSubmatch(g.section(title), -1) {
		if match[1] == mark {
			found = append(found, match[2])
		}
	}
	return found
}

// follow does what a section says: it runs commands, compares what they print
// with what the guide shows, and writes files.
func (g *guide) follow(title string) {
	g.Helper()
	g.followed[title] = true
	printed := ""
	for _, match := range fence.FindAllStringSubmatch(g.section(title), -1) {
		switch mark, block := match[1], match[2]; mark {
		case "sh":
			printed = g.shell(block)
		case "output":
			if !strings.Contains(printed, block) {
				g.Fatalf("%s: the guide shows\n%sand it prints\n%s", title, block, printed)
			}
		case "conf", "yaml", "toml":
			name, content, _ := strings.Cut(block, "\n")
			path := strings.TrimPrefix(strings.TrimPrefix(name, "# "), g.dir)
			if strings.Contains(content, "SIGNING_PUB") {
				key, err := os.ReadFile(g.path("signing.pub"))
				g.must(err)
				content = strings.ReplaceAll(content, "SIGNING_PUB", strings.TrimSpace(string(key)))
			}
			g.write(path, []byte(content))
		default:
			g.Fatalf("%s: a block of %q", title, mark)
		}
	}
}

// allFollowed: no block of the guide was left out.
func (g *guide) allFollowed() {
	g.Helper()
	followed := 0
	for title := range g.followed {
		followed += len(fence.FindAllString(g.section(title), -1))
	}
	if all := len(fence.FindAllString(g.text, -1)); followed != all || all == 0 {
		g.Errorf("%d of %d blocks were run", followed, all)
	}
}

// shell runs commands, all of them in one session, and returns what they print.
func (g *guide) shell(commands string) string {
	g.Helper()
	cmd := exec.CommandContext(g.Context(), "sh", "-euc", "[ ! -e session ] || . ./session\n"+commands+"\nexport -p > session\n")
	cmd.Dir = g.dir
	cmd.Env = []string{"PATH=" + filepath.Join(g.dir, "bin") + ":" + os.Getenv("PATH"), "HOME=" + g.dir}
	if _, err := os.Stat(g.path("session")); err != nil {
		cmd.Env = append(cmd.Env, "BAO_TOKEN="+g.bao.RootToken())
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		g.Fatalf("%v: %s\nof\n%s", err, stderr.String(), commands)
	}
	return string(out)
}

// writeAccountTokens puts the tokens where pods have them, and one where the guide
// tries it out.
func (g *guide) writeAccountTokens() {
	g.Helper()
	for _, name := range []string{"fleet-callout", "fleet-operator"} {
		token, err := g.cluster.Token(map[string]any{"sub": "system:serviceaccount:fleet-system:" + name, "aud": []string{"openbao"}})
		g.must(err)
		g.write(name+".token", []byte(token))
	}
	g.copy("fleet-callout.token", "callout.token")
	g.copy("fleet-callout.token", "/var/run/secrets/openbao/token")
}

// policies is what a program reads policies with, by the role of that name and
// with what the guide has in its configuration besides.
func (g *guide) policies(role string) *openbao.Store {
	g.Helper()
	section := config.OpenBaoDefaults()
	section.Address, section.LoginRole, section.LoginTokenFile = g.bao.Address(), role, g.path(role+".token")
	store, err := openbao.New(openbao.Options{Config: section, Now: time.Now, Log: logr.Discard()})
	g.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); store.Run(ctx, func([]wire.DeviceID) {}) }()
	g.Cleanup(func() { cancel(); <-ended; store.Close() })
	g.eventually(role+" reads who is revoked", store.Ready)
	return store
}

// environment is that of the session.
func (g *guide) environment() (variables []string) {
	g.Helper()
	for line := range strings.Lines(g.shell("env")) {
		variables = append(variables, strings.TrimSpace(line))
	}
	return variables
}

// startBroker runs nats-server with the guide's configuration and makes the
// streams with the login that it gives for that.
func (g *guide) startBroker() {
	g.Helper()
	p, err := process.Start(process.Spec{
		Path: g.path("bin/fleet-broker"), Args: []string{g.path("/etc/nats/nats.conf")}, Env: g.environment(), Log: g.path("broker.log"),
	})
	g.must(err)
	g.Cleanup(func() { p.Stop(10 * time.Second) })
	login, err := nats.NkeyOptionFromSeed(g.path("streams.seed"))
	g.must(err)
	ctx, cancel := context.WithTimeout(g.Context(), patience)
	defer cancel()
	g.must(p.WaitReady(ctx, func(ctx context.Context) error {
		conn, err := nats.Connect(g.url(), login, nats.RootCAs(g.path("/etc/nats/tls.crt")))
		if err != nil {
			return err
		}
		defer conn.Close()
		js, err := jetstream.New(conn)
		if err != nil {
			return err
		}
		for _, bucket := range wire.Buckets() {
			if _, err := js.CreateOrUpdateStream(ctx, bus.StreamConfig(bucket)); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (g *guide) url() string { return fmt.Sprintf("tls://127.0.0.1:%d", g.port) }

// startCallout runs fleet-callout with the guide's configuration and a free port
// for its probes.
func (g *guide) startCallout() *replica {
	g.Helper()
	file := g.path("/etc/fleet-callout/config.yaml")
	_, err := program.ReadConfig(file, config.CalloutDefaults())
	g.must(err)
	content, err := os.ReadFile(file)
	g.must(err)
	probes, err := process.FreePort()
	g.must(err)
	address := fmt.Sprintf("127.0.0.1:%d", probes)
	g.write("callout.yaml", append(content, "metricsAddress: \"0\"\nprobeAddress: "+address+"\n"...))
	g.log = g.path("callout.log")
	p, err := process.Start(process.Spec{Path: g.path("bin/fleet-callout"), Args: []string{"--config", g.path("callout.yaml")}, Log: g.log})
	g.must(err)
	g.Cleanup(func() { p.Stop(0) })
	ctx, cancel := context.WithTimeout(g.Context(), patience)
	defer cancel()
	g.must(p.WaitReady(ctx, func(ctx context.Context) error {
		out, err := exec.CommandContext(ctx, g.path("bin/curl"), "-s", "http://"+address+"/readyz").Output()
		if err == nil && string(out) != "ok" {
			err = fmt.Errorf("/readyz says %q", out)
		}
		return err
	}))
	g.awaitLog("answering the broker")
	return &replica{p}
}

// awaitLog waits until the callout's log says something.
func (g *guide) awaitLog(words string) {
	g.Helper()
	g.eventually("the callout logs "+words, func() error {
		content, err := os.ReadFile(g.log)
		if err != nil {
			return err
		}
		quoted, err := json.Marshal(words)
		if err != nil {
			return err
		}
		if !strings.Contains(string(content), strings.Trim(string(quoted), `"`)) {
			return fmt.Errorf("its log is\n%s", content)
		}
		return nil
	})
}

// awaitCheck waits until `fleet-agent check` prints a line that begins so and has
// these words.
func (g *guide) awaitCheck(begin, words string) {
	g.Helper()
	g.eventually("fleet-agent check says "+begin, func() error {
		ctx, cancel := context.WithTimeout(g.Context(), patience)
		defer cancel()
		out, _ := exec.CommandContext(ctx, g.path("bin/fleet-agent"), "check", "--config", g.path("/etc/fleet-agent/config.toml")).CombinedOutput() // podman need not be there
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, begin) && strings.Contains(line, words) {
				return nil
			}
		}
		return fmt.Errorf("it prints\n%s", out)
	})
}

// token of a machine, with the claims changed; nil takes one away.
func (g *guide) token(name string, changes map[string]any) string {
	g.Helper()
	claims, err := g.zitadel.Claims(name)
	g.must(err)
	for key, value := range changes {
		if claims[key] = value; value == nil {
			delete(claims, key)
		}
	}
	token, err := g.zitadel.Token(claims)
	g.must(err)
	return token
}

// login tries a token at the broker.
func (g *guide) login(token string) error {
	conn, err := nats.Connect(g.url(), nats.Token(token), nats.RootCAs(g.path("/etc/nats/tls.crt")), nats.NoReconnect(), nats.Timeout(patience))
	if err == nil {
		conn.Close()
	}
	return err
}

// connect connects as a program of the cluster does.
func (g *guide) connect(section config.NATSSection, credentials config.Credentials) *bus.Conn {
	g.Helper()
	conn, err := bus.Connect(g.Context(), bus.Options{NATS: section, Credentials: credentials, Name: "guide", FailFast: true, Log: logr.Discard()})
	g.must(err)
	g.Cleanup(conn.Close)
	return conn
}

// checkIsolation: the accounts of the guide's broker keep the device to its own.
func (g *guide) checkIsolation() {
	g.Helper()
	refused := make(chan struct{}, 10)
	conn, err := nats.Connect(g.url(), nats.Token(g.token("device-pi-4", nil)), nats.RootCAs(g.path("/etc/nats/tls.crt")),
		nats.CustomInboxPrefix(wire.InboxPrefix("pi-4")), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, _ error) { refused <- struct{}{} }))
	g.must(err)
	defer conn.Close()
	ask := func(subject string) (*nats.Msg, error) {
		ctx, cancel := context.WithTimeout(g.Context(), patience)
		defer cancel()
		go func() { // a refusal ends the wait for an answer
			select {
			case <-refused:
				cancel()
			case <-ctx.Done():
			}
		}()
		return conn.RequestWithContext(ctx, subject, []byte("{}"))
	}
	if answer, err := ask(wire.DeviceInfos.Subject(wire.DeviceKey("pi-4"))); err != nil || !strings.Contains(string(answer.Data), wire.DeviceInfos.Stream()) {
		g.Errorf("writing its own key: %v", err)
	}
	if answer, err := ask(wire.DesiredState.DirectGet(wire.DeviceKey("pi-4"))); err != nil || answer.Header.Get("Status") != "404" {
		g.Errorf("reading its own manifest, which is not there yet: %+v, %v", answer, err)
	}
	for _, subject := range []string{
		wire.DeviceInfos.Subject(wire.DeviceKey("pi-5")), wire.DesiredState.DirectGet(wire.DeviceKey("pi-5")), "$JS.API.STREAM.NAMES",
	} {
		if _, err := ask(subject); err == nil {
			g.Errorf("%s is answered", subject)
		}
	}
}
