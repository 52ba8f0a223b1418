package broker_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/nationtech/harmony-fleet/smoke/broker"
)

// calloutSubject is where the broker asks the callout, in the callout's account.
const calloutSubject = "$SYS.REQ.USER.AUTH"

// insider connects as the callout does: with its user, but without its keys.
func (a *arena) insider() *nats.Conn {
	a.Helper()
	option, err := nats.NkeyOptionFromSeed(a.broker.Callout().Credentials.SeedFile)
	a.must(err)
	nc, err := nats.Connect(a.broker.URL(), option)
	a.must(err)
	a.Cleanup(nc.Close)
	return nc
}

// overhear captures what broker and callout say to each other about one login.
func (a *arena) overhear(insider *nats.Conn) (question, answer *nats.Msg) {
	a.Helper()
	all, err := insider.SubscribeSync(">")
	a.must(err)
	a.must(insider.Flush())
	a.raw(attacker)
	for question == nil || answer == nil {
		msg, err := all.NextMsg(patience)
		a.must(err)
		switch {
		case msg.Subject == calloutSubject:
			question = msg
		case question != nil && msg.Subject == question.Reply:
			answer = msg
		}
	}
	a.must(all.Unsubscribe())
	return question, answer
}

// TestReplayedAnswer (A22): who overhears a login can neither read it nor use the
// answer for another one.
func TestReplayedAnswer(t *testing.T) {
	a := byCallout(t, broker.Options{LoginTimeout: 3 * time.Second})
	before := a.dump()
	insider := a.insider()
	question, answer := a.overhear(insider)
	for _, msg := range []*nats.Msg{question, answer} {
		if text := string(msg.Data); strings.Contains(text, "eyJ") || strings.Contains(text, me) {
			t.Errorf("%s is in clear: %q", msg.Subject, text)
		}
	}

	// A device cannot send it, to a login that waits or to one that is over.
	c := a.raw(attacker)
	c.send(pub(answer.Subject, "", string(answer.Data)))
	if f, _ := c.next(); !f.refuses("Permissions Violation") {
		t.Errorf("a device answers in the callout's stead: %+v", f)
	}

	// Nor is it of use to one who can: it is for that login alone.
	a.hush()
	replays := make(chan error, 10)
	_, err := insider.Subscribe(calloutSubject, func(msg *nats.Msg) {
		again := nats.NewMsg(msg.Reply)
		again.Data, again.Header = answer.Data, answer.Header
		replays <- insider.PublishMsg(again)
	})
	a.must(err)
	a.must(insider.Flush())
	for who, p := range map[string]proof{
		"the same device": a.proofs[attacker], "another device": a.proofs[victim],
		"nobody": func(string) map[string]any { return map[string]any{"user": me} },
	} {
		logged := len(a.log())
		c := openRaw(t, a.broker.URL())
		c.login(p, pub(own, "", "evil"))
		refused := false
		for _, f := range c.rest() {
			refused = refused || f.refuses("Authorization Violation")
		}
		a.must(<-replays)
		if !refused {
			t.Errorf("%s gets in by the answer to another login", who)
		}
		a.eventually("the reason is logged", func() bool {
			return strings.Contains(a.log()[logged:], "not for expected user")
		})
	}
	if after := a.dump(); len(after) != len(before) {
		t.Errorf("stored %v, before %v", after, before)
	}
}

// TestForgedQuestion (A25): nobody but the broker asks the callout, neither in
// clear nor with what was overheard: not even the callout's own user, which has
// no limits otherwise, and nobody who may do everything in another account. That
// devices, the operator and people cannot, the tables of their permissions say.
func TestForgedQuestion(t *testing.T) {
	a := byCallout(t, broker.Options{})
	question, _ := a.overhear(a.insider())
	server, err := nkeys.CreateServer()
	a.must(err)
	user, err := nkeys.CreateUser()
	a.must(err)
	key, err := user.PublicKey()
	a.must(err)
	claims := jwt.NewAuthorizationRequestClaims("callout")
	claims.Audience, claims.UserNkey, claims.ConnectOptions.Username = "nats-authorization-request", key, me
	forged, err := claims.Encode(server)
	a.must(err)

	seed, err := os.ReadFile(a.broker.Callout().Credentials.SeedFile)
	a.must(err)
	pair, err := nkeys.FromSeed(seed)
	a.must(err)
	decisions := strings.Count(a.logged(), "granted")
	for who, p := range map[string]proof{"the callout's user": a.keyProof("", pair), "one without limits elsewhere": password(a.broker.Provisioner())} {
		c := dialRaw(t, a.broker.URL(), p)
		for _, sent := range []string{
			pub(calloutSubject, "answer", forged),
			pub(calloutSubject, "answer", string(question.Data), "Nats-Server-Xkey: "+question.Header.Get("Nats-Server-Xkey")),
		} {
			c.send("SUB answer 1\r\n" + sent)
			frames := c.roundTrip()
			unheard := len(frames) == 1 && strings.HasPrefix(frames[0].content, "NATS/1.0 503") // nobody listens in that account
			if !unheard && (len(frames) != 1 || !frames[0].refuses("Permissions Violation")) {
				t.Errorf("%s asks the callout: %+v", who, frames)
			}
		}
	}
	a.raw(attacker) // the only one that the callout decides about
	a.eventually("the next login is decided", func() bool { return strings.Count(a.logged(), "granted") == decisions+1 })
	if strings.Contains(a.logged(), "could not be handled") {
		t.Errorf("a forged question reached the callout: %s", a.logged())
	}
}
