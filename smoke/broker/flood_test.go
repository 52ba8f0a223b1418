package broker_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

// TestDeviceLimits floods as one device (A16).
func TestDeviceLimits(t *testing.T) {
	eachLogin(t, broker.Options{}, func(a *arena) {
		limits := wire.DevicePermissions(attacker)
		before := a.dump()
		c := a.raw(attacker)
		for i := range 300 {
			c.send(fmt.Sprintf("SUB _INBOX_%s.%d %d\r\n", attacker, i, i+1))
		}
		told := false
		for _, f := range c.roundTrip() {
			told = told || f.refuses("maximum subscriptions exceeded")
		}
		if !told {
			a.Errorf("300 subscriptions are taken, want %d", limits.MaxSubscriptions)
		}
		c = a.raw(attacker)
		c.send(fmt.Sprintf("PUB %s %d\r\n", wire.DeviceInfos.Subject(me), limits.MaxPayload+1))
		if f, _ := c.next(); !f.refuses("Maximum Payload Violation") {
			a.Errorf("a payload of %d bytes: %+v", limits.MaxPayload+1, f)
		}
		a.victimIsWell(before)
	})
}

// victimIsWell proves that an attack is over and was in vain.
func (a *arena) victimIsWell(before map[string]string) {
	a.Helper()
	a.settle()
	if diff := cmp.Diff(before, a.dump()); diff != "" {
		a.Errorf("what others own has changed (-before +after):\n%s", diff)
	}
	if heard := a.heard(); len(heard) > 0 {
		a.Errorf("the victim heard %q", heard)
	}
	a.live()
}

// TestHalfOpen opens connections that never log in, or log in as nobody (A16):
// the broker ends them, and lets others in meanwhile.
func TestHalfOpen(t *testing.T) {
	eachLogin(t, broker.Options{LoginTimeout: 4 * time.Second}, func(a *arena) {
		before := a.dump()
		var silent, liars []*rawClient
		for i := range 200 {
			c := openRaw(a.T, a.broker.URL())
			if i%10 == 0 {
				c.login(func(string) map[string]any { return map[string]any{"user": "fleet/operator", "pass": "guess"} }, "")
				liars = append(liars, c)
				continue
			}
			if i%2 == 0 {
				c.send("CONNECT {\"user\":")
			}
			silent = append(silent, c)
		}
		a.raw(attacker) // others come in
		for _, c := range append(silent, liars...) {
			for _, f := range c.rest() {
				if !f.refuses("authentication timeout") && !f.refuses("authorization violation") {
					a.Fatalf("without a login: %+v", f)
				}
			}
		}
		// Of a login that does not come, the broker tells the client alone.
		a.eventually("wrong logins are logged", func() bool { return strings.Contains(a.log(), "authentication error") })
		a.victimIsWell(before)
	})
}

// TestSlowConsumer asks for more than it reads (A16): the broker cuts it off
// before it costs more memory than max_pending.
func TestSlowConsumer(t *testing.T) {
	eachLogin(t, broker.Options{}, func(a *arena) {
		size := int(wire.DesiredState.MaxMessageSize) - 1<<10
		a.write(wire.DesiredState.Subject(me), strings.Repeat("x", size))
		before := a.dump()
		c := a.raw(attacker)
		c.send("SUB _INBOX_" + me + ".> 2\r\n")
		// Twice what may be pending: the kernel takes some of it.
		for range 2 * (64 << 20) / size {
			c.send(pub(wire.DesiredState.DirectGet(me), inbox, ""))
		}
		a.eventually("the slow consumer is logged", func() bool { return strings.Contains(a.log(), "Slow Consumer") })
		c.rest() // it has been cut off
		a.victimIsWell(before)
	})
}

// TestMalformed sends what is too long or no protocol at all (A17): the broker
// hangs up, and says why in its log.
func TestMalformed(t *testing.T) {
	eachLogin(t, broker.Options{}, func(a *arena) {
		before := a.dump()
		long := strings.Repeat("x", 1<<20)
		for reason, sent := range map[string]string{
			"a subject of a mebibyte":             "PUB " + long + " 1\r\nx\r\n",
			"headers of a mebibyte":               fmt.Sprintf("HPUB %s %d %d\r\n", own, 1<<20, 1<<20+4),
			"headers longer than the message":     "HPUB " + own + " 100 4\r\n",
			"a negative size":                     "PUB " + own + " -1\r\n",
			"a size that overflows":               "PUB " + own + " 99999999999999999999\r\n",
			"a body longer than announced":        "PUB " + own + " 1\r\nevil\r\n",
			"a body that lacks its end":           "PUB " + own + " 4\r\nevilPUB " + wanted + " 4\r\nevil\r\n",
			"no protocol":                         "EVIL\r\n",
			"a route's message":                   "RMSG FLEET " + wanted + " 4\r\nevil\r\n",
			"a route's subscription":              "RS+ FLEET >\r\n",
			"a leaf's message":                    "LMSG " + wanted + " 4\r\nevil\r\n",
			"a leaf's subscription":               "LS+ >\r\n",
			"an account's subscription":           "A+ FLEET\r\n",
			"an announcement of another server":   `INFO {"server_id":"x","connect_urls":["127.0.0.1:1"]}` + "\r\n" + "RS+ FLEET >\r\n",
			"a command that is never ended":       "PUB " + strings.Repeat("a", 8<<10),
			"a message as only a server sends it": "MSG " + wanted + " 1 4\r\nevil\r\n",
		} {
			logged := len(a.log())
			c := a.raw(attacker)
			c.send(sent)
			if frames := c.rest(); len(frames) > 2 {
				a.Errorf("%s: %+v", reason, frames)
			}
			a.eventually(reason+" is logged", func() bool {
				return strings.Contains(a.log()[logged:], "[ERR]")
			})
		}
		a.victimIsWell(before)
	})
}

// TestHeaderBomb sends as many headers as fit (A17): each stream takes only
// messages of its size, headers included.
func TestHeaderBomb(t *testing.T) {
	eachLogin(t, broker.Options{}, func(a *arena) {
		before := a.dump()
		c := a.raw(attacker)
		c.send("SUB _INBOX_" + me + ".> 2\r\n")
		bomb := make([]string, 50_000)
		for i := range bomb {
			bomb[i] = "A: b"
		}
		for _, subject := range []string{own, wire.DeviceInfos.Subject(me), wire.DeviceHeartbeats.Subject(me)} {
			c.send(pub(subject, inbox, "evil", bomb...))
			if f, _ := c.next(); !strings.Contains(f.content, `"err_code":10054`) {
				a.Errorf("%d headers to %s: %+v", len(bomb), subject, f)
			}
		}
		a.victimIsWell(before)
	})
}

// TestFullBucket has a device fill the bucket of states with keys of its own
// (A18), and pins how far that gets: nothing bounds the keys of one device at the
// broker, only those of all. Others keep what they have and can write it again,
// but cannot add keys until what the attacker wrote is purged, as the operator does
// (TestFloodedStates there).
func TestFullBucket(t *testing.T) {
	small := func(c *jetstream.StreamConfig) bool {
		if c.Name == wire.DeviceStates.Stream() {
			c.MaxBytes = 256 << 10
		}
		return true
	}
	eachLogin(t, broker.Options{Shape: small}, func(a *arena) {
		before := a.dump()
		c := a.raw(attacker)
		c.send("SUB _INBOX_" + me + ".> 2\r\n")
		// Large values first, then empty ones up to the last byte. The bound of the
		// loop is far beyond what fits.
		full := 0
		for i := 0; i < 10_000 && full < 2; i++ {
			body := ""
			if full == 0 {
				body = strings.Repeat("x", 8<<10)
			}
			c.send(pub(fmt.Sprintf("$KV.device-state.%s.default.app-%d", me, i), inbox, body))
			if f, _ := c.next(); strings.Contains(f.content, `"err_code":10077`) {
				full++
			}
		}
		if full < 2 {
			a.Fatal("the bucket has no bound")
		}
		write := func(name string) (answer struct {
			Error struct {
				Code int `json:"err_code"`
			}
		}) {
			msg, err := a.victim.Request("$KV.device-state."+them+".default."+name, []byte(secret), patience)
			a.must(err)
			a.must(json.Unmarshal(msg.Data, &answer))
			return answer
		}
		if answer := write("web"); answer.Error.Code != 0 {
			a.Errorf("the victim's own key, written again: %+v", answer)
		}
		if answer := write("new"); answer.Error.Code != 10077 {
			a.Errorf("a new key of the victim: %+v; what bounds the attacker now?", answer)
		}
		if diff := cmp.Diff(before, a.dump()); diff != "" {
			a.Errorf("what others own has changed (-before +after):\n%s", diff)
		}
		stream, err := a.js.Stream(a.Context(), wire.DeviceStates.Stream())
		a.must(err)
		a.must(stream.Purge(a.Context(), jetstream.WithPurgeSubject("$KV.device-state."+me+".*.*")))
		if answer := write("new"); answer.Error.Code != 0 {
			a.Errorf("a new key of the victim after a purge of the attacker's: %+v", answer)
		}
	})
}

// TestSequenceOracle pins what a device can find out about others: with a header
// of its own write it asks for the last sequence of any subject of the same
// bucket, and so learns whether a key exists, and when it is written. It learns
// no value and changes nothing; a server that forbids it would be better.
func TestSequenceOracle(t *testing.T) {
	eachLogin(t, broker.Options{}, func(a *arena) {
		before := a.dump()
		c := a.raw(attacker)
		c.send("SUB _INBOX_" + me + ".> 2\r\n")
		ask := func(subject string) string {
			c.send(pub(own, inbox, "evil", "Nats-Expected-Last-Subject-Sequence: 0", "Nats-Expected-Last-Subject-Sequence-Subject: "+subject))
			f, _ := c.next()
			return f.content
		}
		const known = `"err_code":10071`
		for subject, exists := range map[string]bool{
			"$KV.device-state." + them + ".default.web": true, "$KV.device-state." + them + ".>": true, "$KV.device-state.*.default.web": true,
			"$KV.device-state.pi-43.default.web": false,
			"$KV.desired-state." + them:          false, // of another bucket nothing is told
		} {
			if answer := ask(subject); strings.Contains(answer, known) != exists || strings.Contains(answer, secret) {
				a.Errorf("%s: %s", subject, answer)
			}
		}
		a.victimIsWell(before)
	})
}

// TestGuessedMessageID has the attacker use up message ids (A9): within the
// shortest window that the server takes, a write with the same id is dropped.
// So nobody may use ids, and an agent's write has none.
func TestGuessedMessageID(t *testing.T) {
	eachLogin(t, broker.Options{}, func(a *arena) {
		before := a.dump()
		c := a.raw(attacker)
		c.send(pub(own, "", "evil", "Nats-Msg-Id: "+nats.NewInbox()))
		c.roundTrip()
		msg, err := a.victim.Request("$KV.device-state."+them+".default.web", []byte(secret), patience)
		a.must(err)
		if strings.Contains(string(msg.Data), "duplicate") || strings.Contains(string(msg.Data), "error") {
			a.Errorf("the victim's write: %s", msg.Data)
		}
		a.heard() // its acknowledgement
		stream, err := a.js.Stream(a.Context(), wire.DeviceStates.Stream())
		a.must(err)
		if window := stream.CachedInfo().Config.Duplicates; window != wire.DuplicateWindow {
			a.Errorf("message ids are remembered for %s, want %s", window, wire.DuplicateWindow)
		}
		a.victimIsWell(before)
	})
}
