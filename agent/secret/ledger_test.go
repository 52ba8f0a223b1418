package secret

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/agent/podman"
	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

var (
	start = time.Unix(1_800_000_000, 0)
	web   = wire.DeploymentID{Namespace: "shop", Name: "web"}
	db    = secret.Ref{Deployment: web, Name: "db"}
	mail  = secret.Ref{Deployment: web, Name: "mail"}
)

func keysOf(ref secret.Ref, keys ...string) (all []reconcile.SecretKey) {
	for _, key := range keys {
		all = append(all, reconcile.SecretKey{Ref: ref, Key: key})
	}
	return all
}

// after is so long after the start, with nothing left to chance.
func after(d time.Duration) moment { return moment{now: start.Add(d)} }

// inUse is a ledger with both keys of db in version 1 in use, read at the start.
func inUse(t *testing.T) *ledger {
	t.Helper()
	l := restored(5*time.Minute, nil)
	l.want(keysOf(db, "user", "password"), after(0))
	take, news := l.take(db, answer{version: "1", values: map[string]any{"user": "u", "password": "p", "other": "o"}}, after(0))
	if diff := cmp.Diff(map[string]string{"user": "u", "password": "p"}, take.values); diff != "" || !news {
		t.Fatalf("news is %v, values (- want, + got):\n%s", news, diff)
	}
	l.adopt(take)
	return l
}

// tells holds how a key of db stands against the version and the reason, "" for
// well, and returns the message.
func tells(t *testing.T, l *ledger, key string, version reconcile.SecretVersion, reason string) string {
	t.Helper()
	s := l.standing()[reconcile.SecretKey{Ref: db, Key: key}]
	var got reconcile.Failure
	if s.Err != nil {
		got = *s.Err
		if !strings.Contains(got.Message, `secret "db", key "`+key+`": `) {
			t.Errorf("message %q does not name secret and key", got.Message)
		}
	}
	if s.Version != version || got.Reason != reason {
		t.Errorf("%s stands at version %q with %+v, want %q and %q", key, s.Version, got, version, reason)
	}
	return got.Message
}

func dueAt(t *testing.T, l *ledger, from time.Duration, want ...secret.Ref) {
	t.Helper()
	refs, _ := l.due(start.Add(from))
	if diff := cmp.Diff(want, refs); diff != "" {
		t.Errorf("due after %s (- want, + got):\n%s", from, diff)
	}
}

func TestWhatIsReadWhen(t *testing.T) {
	l := restored(5*time.Minute, nil)
	l.want(slices.Concat(keysOf(mail, "password"), keysOf(db, "user", "password", "user")), after(0))
	dueAt(t, l, 0, db, mail) // wanted for the first time: at once
	for _, ref := range []secret.Ref{db, mail} {
		take, _ := l.take(ref, answer{version: "1", values: map[string]any{"user": "u", "password": "p"}}, moment{start, 0.5})
		l.adopt(take)
	}
	dueAt(t, l, 4*time.Minute)
	dueAt(t, l, 5*time.Minute, db, mail)
	if _, wake := l.due(start); wake.Sub(start) != 5*time.Minute {
		t.Errorf("wakes after %s", wake.Sub(start))
	}
	l.want(keysOf(db, "password"), after(time.Minute)) // less than before
	if diff := cmp.Diff([]store.SecretInUse{{Ref: db, Version: "1", Keys: []string{"password"}}}, l.inUse()); diff != "" {
		t.Errorf("in use (- want, + got):\n%s", diff)
	}
	l.want(keysOf(db, "password"), after(2*time.Minute)) // the same again
	take, _ := l.take(db, answer{version: "1", values: map[string]any{"password": "p"}}, after(2*time.Minute))
	l.adopt(take)
	dueAt(t, l, 2*time.Minute)
	l.want(keysOf(db, "password", "new"), after(2*time.Minute)) // a key more
	dueAt(t, l, 2*time.Minute, db)
	l.want(nil, after(2*time.Minute))
	dueAt(t, l, time.Hour)
	if len(l.inUse())+len(l.names("pi-1"))+len(l.standing()) > 0 {
		t.Error("what nobody wants is not forgotten")
	}
}

// What was in use before a start is good at once, and looked at within a while.
func TestRestored(t *testing.T) {
	l := restored(5*time.Minute, []store.SecretInUse{
		{Ref: db, Version: "1", Keys: []string{"user", "password"}}, {Ref: mail, Version: "1", Keys: []string{"password"}},
	})
	l.want(keysOf(db, "password"), moment{start, 1})
	tells(t, l, "password", "1", "")
	dueAt(t, l, 0)
	dueAt(t, l, firstLook, db)
	if diff := cmp.Diff([]store.SecretInUse{{Ref: db, Version: "1", Keys: []string{"password"}}}, l.inUse()); diff != "" {
		t.Errorf("in use (- want, + got):\n%s", diff)
	}
	l.lost("down", after(time.Minute))
	tells(t, l, "password", "1", reconcile.ReasonSecretUnavailable)
}

func TestNewVersion(t *testing.T) {
	l := inUse(t)
	take, news := l.take(db, answer{version: "2", values: map[string]any{"user": "u", "password": "q"}}, after(time.Minute))
	if !news {
		t.Fatal("a new version is no news")
	}
	tells(t, l, "password", "1", "") // until podman and the disk have it
	if diff := cmp.Diff([]store.SecretInUse{{Ref: db, Version: "2", Keys: []string{"password", "user"}}}, l.with(take)); diff != "" {
		t.Errorf("in use afterwards (- want, + got):\n%s", diff)
	}
	tells(t, l, "password", "1", "")
	before := l.names("pi-1")
	l.adopt(take)
	tells(t, l, "password", "2", "")
	if slices.Equal(before, l.names("pi-1")) || len(before) != 2 {
		t.Errorf("names %q, before %q", l.names("pi-1"), before)
	}
}

// User and password of one secret change together or not at all.
func TestVersionThatLacksAKeyInUse(t *testing.T) {
	for reason, values := range map[string]map[string]any{
		reconcile.ReasonSecretMissing: {"user": "v"}, reconcile.ReasonSecretInvalid: {"user": "v", "password": 7},
	} {
		l := inUse(t)
		if _, news := l.take(db, answer{version: "2", values: values}, after(0)); news {
			t.Errorf("%s: taken over", reason)
		}
		tells(t, l, "user", "1", "")
		if text := tells(t, l, "password", "1", reason); !strings.Contains(text, "goes on with the value that it has") {
			t.Errorf("message %q", text)
		}
		dueAt(t, l, time.Second, db)
	}
}

// A service that names a key that is not there holds up no other.
func TestKeyThatWasNeverThere(t *testing.T) {
	l := inUse(t)
	l.want(keysOf(db, "user", "password", "typo"), after(0))
	take, news := l.take(db, answer{version: "2", values: map[string]any{"user": "u", "password": "q"}}, after(0))
	if !news {
		t.Fatal("not taken over")
	}
	l.adopt(take)
	tells(t, l, "password", "2", "")
	tells(t, l, "typo", "", reconcile.ReasonSecretMissing)
}

func TestUsable(t *testing.T) {
	for name, c := range map[string]struct {
		value  any
		reason string
	}{
		"text":      {"s3cr3t", ""},
		"largest":   {strings.Repeat("s3cr3t", podman.MaxSecret/6), ""},
		"number":    {3.5, reconcile.ReasonSecretInvalid},
		"object":    {map[string]any{"s3cr3t": "s3cr3t"}, reconcile.ReasonSecretInvalid},
		"null":      {nil, reconcile.ReasonSecretInvalid},
		"empty":     {"", reconcile.ReasonSecretInvalid},
		"too large": {strings.Repeat("s3cr3t", podman.MaxSecret), reconcile.ReasonSecretInvalid},
		"NUL":       {"s3cr3t\x00", reconcile.ReasonSecretInvalid},
	} {
		_, trouble := usable(map[string]any{"key": c.value}, "key")
		if (trouble == nil) != (c.reason == "") || trouble != nil && (trouble.Reason != c.reason || strings.Contains(trouble.Message, "s3cr3t")) {
			t.Errorf("%s: %+v", name, trouble)
		}
	}
}

// The operator lets the device read a moment after the device heard that it needs
// to: that is no failure yet.
func TestRefused(t *testing.T) {
	for _, running := range []bool{false, true} {
		l, version := restored(5*time.Minute, nil), reconcile.SecretVersion("")
		l.want(keysOf(db, "user", "password"), after(0))
		if running {
			l, version = inUse(t), "1"
		}
		at := time.Duration(0)
		for n := 1; n < 2*patience; n++ {
			if _, news := l.take(db, answer{refused: "no"}, after(at)); news {
				t.Fatal("a refusal is taken over")
			}
			want := reconcile.ReasonSecretUnavailable
			if n >= patience {
				want = reconcile.ReasonSecretRefused
			}
			tells(t, l, "user", version, want)
			_, wake := l.due(start.Add(at))
			if wait := wake.Sub(start.Add(at)); wait < retryFirst/2 || wait > retryMost {
				t.Errorf("the next try comes after %s", wait)
			}
			at = wake.Sub(start)
		}
		take, news := l.take(db, answer{version: "1", values: map[string]any{"user": "u", "password": "p"}}, after(at))
		l.adopt(take)
		if tells(t, l, "user", "1", ""); !news {
			t.Error("what is let in then is no news")
		}
	}
}

func TestMissing(t *testing.T) {
	l := inUse(t)
	_, news := l.take(db, answer{missing: true}, after(0))
	if text := tells(t, l, "user", "1", reconcile.ReasonSecretMissing); news || !strings.Contains(text, "secrets/shop/web/db") {
		t.Errorf("news is %v, message %q", news, text)
	}
	l = restored(5*time.Minute, nil)
	l.want(keysOf(db, "user"), after(0))
	l.take(db, answer{missing: true}, after(0))
	if text := tells(t, l, "user", "", reconcile.ReasonSecretMissing); strings.Contains(text, "goes on") {
		t.Errorf("message %q", text)
	}
}

// In an outage all waits, ever longer, and what OpenBao said before still counts.
func TestOutage(t *testing.T) {
	l := inUse(t)
	l.want(slices.Concat(keysOf(db, "user", "password"), keysOf(mail, "password")), after(0))
	at := time.Duration(0)
	for n := range 10 {
		l.lost("cannot be reached", after(at))
		dueAt(t, l, at)
		_, wake := l.due(start.Add(at))
		wait := wake.Sub(start.Add(at))
		if least := min(retryFirst<<n, retryMost) / 2; wait < least || wait > retryMost {
			t.Errorf("waits %s after %d failures", wait, n+1)
		}
		at = wake.Sub(start)
	}
	tells(t, l, "user", "1", reconcile.ReasonSecretUnavailable) // which withholds nothing
	if s := l.standing()[reconcile.SecretKey{Ref: mail, Key: "password"}]; s.Version != "" || s.Err == nil || s.Err.Reason != reconcile.ReasonSecretUnavailable {
		t.Errorf("what was never read stands at %+v", s)
	}
	l.take(db, answer{missing: true}, after(at))
	if l.outage != "" {
		t.Error("the outage is not over")
	}
	l.lost("again", after(at))
	tells(t, l, "user", "1", reconcile.ReasonSecretMissing)
}

func TestValuesThatDoNotArrive(t *testing.T) {
	l := restored(5*time.Minute, nil)
	l.want(keysOf(db, "user"), after(0))
	for n := range 4 {
		l.take(db, answer{version: "1", values: map[string]any{"user": "u"}}, after(0))
		l.notHeld(db, "podman is full", after(0))
		tells(t, l, "user", "", reconcile.ReasonSecretUnavailable)
		if _, wake := l.due(start); wake.Sub(start) < retryFirst<<n/2 {
			t.Errorf("tried again after %s", wake.Sub(start))
		}
	}
}

func TestBarred(t *testing.T) {
	l := restored(5*time.Minute, []store.SecretInUse{{Ref: db, Version: "1", Keys: []string{"user"}}})
	l.barred = &reconcile.Failure{Reason: reconcile.ReasonSecretsNotConfigured, Message: "no"}
	l.want(keysOf(db, "user", "password"), after(0))
	dueAt(t, l, time.Hour)
	tells(t, l, "user", "1", reconcile.ReasonSecretsNotConfigured)
	tells(t, l, "password", "", reconcile.ReasonSecretsNotConfigured)
}

// An answer for what is wanted no more changes nothing.
func TestLateAnswer(t *testing.T) {
	l := inUse(t)
	take, _ := l.take(db, answer{version: "2", values: map[string]any{"user": "u", "password": "q"}}, after(0))
	l.want(nil, after(0))
	if got := l.with(take); len(got) > 0 {
		t.Errorf("in use: %+v", got)
	}
	l.adopt(take)
	l.notHeld(db, "no", after(0))
	if _, news := l.take(db, answer{version: "2", values: map[string]any{"user": "u"}}, after(0)); news || len(l.secrets) > 0 {
		t.Error("it is taken over")
	}
}
