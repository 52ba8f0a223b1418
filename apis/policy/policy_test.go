package policy_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/apis/policy"
)

const key = "UAMC5YXCEFTD34CRWYJYTZVJCY7PGB5XCHLJLTIYFDCRLSUBR7NFIEYJ"

func TestRoundTrip(t *testing.T) {
	for _, want := range []policy.Policy{
		{},
		{Labels: map[string][]string{"site": {"berlin", "paris"}, "name": {policy.AnyValue}}, Sources: []string{"192.0.2.0/24", "2001:db8::/32"}},
	} {
		data, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := policy.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `"label-%d":["x"],`, i)
		}
		return `{"labels":{` + strings.TrimSuffix(b.String(), ",") + `}}`
	}
	for reason, text := range map[string]string{
		"nothing":             ``,
		"no JSON":             `nkey: U`,
		"a list":              `[]`,
		"two values":          `{}{}`,
		"an unknown field":    `{"suspended":true}`,
		"a label as a text":   `{"labels":{"site":"berlin"}}`,
		"a label of nothing":  `{"labels":{"site":[]}}`,
		"a label no name":     `{"labels":{"":["x"]}}`,
		"a long value":        `{"labels":{"site":["` + strings.Repeat("x", 600) + `"]}}`,
		"65 values":           `{"labels":{"site":["x"` + strings.Repeat(`,"x"`, 64) + `]}}`,
		"65 labels":           many(65),
		"100,000 labels":      many(100_000),
		"a key of an account": `{"nkey":"A` + key[1:] + `"}`,
		"an address":          `{"sources":["192.0.2.1"]}`,
		"no network":          `{"sources":["everywhere"]}`,
		"17 networks":         `{"sources":["192.0.2.0/24"` + strings.Repeat(`,"192.0.2.0/24"`, 16) + `]}`,
	} {
		if _, err := policy.Decode([]byte(text)); !errors.Is(err, policy.ErrMalformed) {
			t.Errorf("%s: got %v", reason, err)
		}
	}
}

func TestAllows(t *testing.T) {
	p := policy.Policy{Labels: map[string][]string{"site": {"berlin", "paris"}, "rack": {policy.AnyValue}, "odd": {policy.AnyValue, "x"}}}
	for _, c := range []struct {
		key, value string
		want       bool
	}{
		{"site", "berlin", true},
		{"site", "Berlin", false},
		{"site", policy.AnyValue, false},
		{"rack", "17", true},
		{"odd", "17", false},
		{"group", "a", false},
		{"", "", false},
	} {
		if got := p.Allows(c.key, c.value); got != c.want {
			t.Errorf("%s=%s: %v", c.key, c.value, got)
		}
	}
}

func TestFrom(t *testing.T) {
	p := policy.Policy{Sources: []string{"192.0.2.0/24", "2001:db8::/32"}}
	for address, want := range map[string]bool{
		"192.0.2.7": true, "::ffff:192.0.2.7": true, "192.0.3.7": false, "2001:db8::1": true, "2001:db9::1": false, "": false, "localhost": false,
	} {
		if got := p.From(address); got != want {
			t.Errorf("from %q: %v", address, got)
		}
		if !(policy.Policy{}).From(address) {
			t.Errorf("without networks, from %q: refused", address)
		}
	}
}
