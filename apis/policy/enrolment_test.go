package policy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/apis/policy"
)

func TestToken(t *testing.T) {
	token := policy.NewToken("pi-4")
	if token.Text() == policy.NewToken("pi-4").Text() {
		t.Error("two tokens are alike")
	}
	read, err := policy.ParseToken(token.Text())
	if err != nil || read != token || !policy.IsToken(token.Text()) {
		t.Errorf("got %v, %v", read, err)
	}
	secret := strings.Split(token.Text(), ".")[2]
	for _, printed := range []string{fmt.Sprint(token), fmt.Sprintf("%v %+v %s", token, token, token)} {
		if strings.Contains(printed, secret) {
			t.Errorf("%q has the secret", printed)
		}
	}
	for reason, text := range map[string]string{
		"empty":           "",
		"another form":    strings.Replace(token.Text(), "v1", "v2", 1),
		"no device":       "fleet-join-v1.." + secret,
		"a wildcard":      "fleet-join-v1.*." + secret,
		"upper case":      strings.ToUpper(token.Text()),
		"a shouted part":  "fleet-join-v1.pi-4." + strings.ToUpper(secret),
		"cut off":         token.Text()[:len(token.Text())-2],
		"a part too many": token.Text() + ".x",
		"a line feed":     token.Text() + "\n",
		"no secret":       "fleet-join-v1.pi-4.",
	} {
		_, err := policy.ParseToken(text)
		if !errors.Is(err, policy.ErrToken) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", reason, err)
		}
	}
}

func TestEnrolmentAdmits(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	token := policy.NewToken("pi-4")
	e := token.Enrolment(now.Add(time.Hour))
	other, err := policy.ParseToken(strings.Replace(token.Text(), "pi-4", "pi-5", 1))
	if err != nil {
		t.Fatal(err)
	}
	for reason, c := range map[string]struct {
		token policy.Token
		at    time.Time
		want  error
	}{
		"in time":                      {token, now, nil},
		"in the last second":           {token, now.Add(time.Hour - 1), nil},
		"too late":                     {token, now.Add(time.Hour), policy.ErrExpired},
		"another secret":               {policy.NewToken("pi-4"), now, policy.ErrToken},
		"the secret of another device": {other, now, policy.ErrToken},
	} {
		if err := e.Admits(c.token, c.at); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", reason, err, c.want)
		}
	}
	data, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if read, err := policy.DecodeEnrolment(data); err != nil || read != e {
		t.Errorf("got %v, %v, want %v", read, err, e)
	}
	for reason, text := range map[string]string{
		"empty": "", "no digest": `{"expires":"2026-11-25T12:00:00Z"}`, "a short digest": `{"sha256":"ab","expires":"2026-11-25T12:00:00Z"}`,
		"no end": `{"sha256":"` + e.Digest + `"}`, "a field too many": `{"sha256":"` + e.Digest + `","expires":"2026-11-25T12:00:00Z","uses":2}`,
	} {
		if _, err := policy.DecodeEnrolment([]byte(text)); !errors.Is(err, policy.ErrMalformed) {
			t.Errorf("%s: %v", reason, err)
		}
	}
}

// TestRevocation: whatever is written there can be shown.
func TestRevocation(t *testing.T) {
	for data, want := range map[string]string{
		`{"reason":"stolen","by":"anna","at":"2026-11-25T12:00:00Z"}`: `since 2026-11-25T12:00:00Z, by anna, reason "stolen"`,
		`{"reason":"stolen"}`: `reason "stolen"`,
		`{"reason":7}`:        "",
		`{}`:                  "",
	} {
		if got := policy.DecodeRevocation([]byte(data)).String(); got != want {
			t.Errorf("%s: got %q, want %q", data, got, want)
		}
	}
}
