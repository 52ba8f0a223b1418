package keys_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nkeys"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/keys"
)

func complete(t *testing.T, have map[string][]byte) map[string][]byte {
	t.Helper()
	all, _, err := keys.Complete(have)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestComplete: what is made is of the right kinds, and what is there is kept.
func TestComplete(t *testing.T) {
	all, made, err := keys.Complete(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range keys.Pairs() {
		pair, err := nkeys.FromSeed(all[p.Seed()])
		if err != nil {
			t.Fatalf("%s: %v", p.Seed(), err)
		}
		if public, err := pair.PublicKey(); err != nil || public != string(all[p.Public()]) || nkeys.Prefix(public) != p.Kind {
			t.Errorf("%s is %s, want %s of the kind %s (%v)", p.Public(), all[p.Public()], public, p.Kind, err)
		}
	}
	if _, err := wire.NewSigner(all["signing.seed"]); err != nil {
		t.Errorf("the operator cannot sign with it: %v", err)
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(all)), slices.Sorted(slices.Values(made))); diff != "" {
		t.Errorf("entries, and those told as made: %s", diff)
	}
	again, made, err := keys.Complete(all)
	if err != nil || len(made) > 0 || !cmp.Equal(all, again) {
		t.Errorf("a complete Secret changes: %v, %v", made, err)
	}
	other := complete(t, nil)
	for entry := range all {
		if bytes.Equal(all[entry], other[entry]) {
			t.Errorf("%s is the same in every install", entry)
		}
		lacking := maps.Clone(all)
		delete(lacking, entry)
		lacking["own"] = []byte("kept")
		got, made, err := keys.Complete(lacking)
		switch {
		case strings.HasSuffix(entry, ".seed"), strings.HasPrefix(entry, "ca."):
			// Half of a pair: the other half must not be lost by making both anew.
			if err == nil || got != nil {
				t.Errorf("without %s: made %v", entry, made)
			}
		case err != nil || !cmp.Equal(made, []string{entry}) || string(got["own"]) != "kept":
			t.Errorf("without %s: made %v, %v", entry, made, err)
		}
	}
}

// TestCompleteRefuses: an entry that cannot be what it should be is told, without
// its value, and nothing is made.
func TestCompleteRefuses(t *testing.T) {
	all, other := complete(t, nil), complete(t, nil)
	cases := map[string]struct {
		entry string
		value []byte
		want  string
	}{
		"not a seed":           {"operator.seed", []byte("hunter2"), "begins with SU"},
		"a public key":         {"signing.seed", all["signing.pub"], "begins with SO"},
		"a seed of other kind": {"issuer.seed", all["operator.seed"], "begins with SA"},
		"of another pair":      {"callout.pub", other["callout.pub"], "not of one pair"},
		"not a certificate":    {"ca.crt", []byte("hunter2"), `"ca.crt"`},
		"not an authority's":   {"ca.crt", leafOf(t, all), `"ca.crt"`},
		"not a key":            {"ca.key", []byte("hunter2"), `"ca.key"`},
		"an authority's other": {"ca.key", other["ca.key"], `"ca.key"`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			have := maps.Clone(all)
			have[c.entry] = c.value
			delete(have, keys.AdminPassword)
			got, made, err := keys.Complete(have)
			if err == nil || !strings.Contains(err.Error(), c.want) || got != nil || made != nil {
				t.Errorf("got %v, %v, want an error with %s", made, err, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), string(all["operator.seed"]))) {
				t.Errorf("the error has the value: %v", err)
			}
		})
	}
	spaced := maps.Clone(all)
	spaced["operator.seed"] = append(slices.Clone(all["operator.seed"]), '\n')
	if _, made, err := keys.Complete(spaced); err != nil || len(made) > 0 {
		t.Errorf("a seed with a line break, as nk writes it: %v, %v", made, err)
	}
}

func leafOf(t *testing.T, entries map[string][]byte) []byte {
	t.Helper()
	made, _, err := keys.Certify(nil, entries, []string{"nats"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return made["tls.crt"]
}

// TestCertify: a certificate is issued anew exactly when it has to be, and is good at its hosts.
func TestCertify(t *testing.T) {
	entries, now := complete(t, nil), time.Now()
	hosts := []string{"nats.fleet-system.svc", "*.nats.fleet-system.svc", "192.0.2.7", "2001:db8::1"}
	first, why, err := keys.Certify(nil, entries, hosts, now)
	if err != nil || why == "" {
		t.Fatal(why, err)
	}
	for _, host := range []string{"nats.fleet-system.svc", "nats-0.nats.fleet-system.svc", "192.0.2.7", "2001:db8::1"} {
		if err := trusted(t, first, host); err != nil {
			t.Errorf("at %s: %v", host, err)
		}
	}
	if trusted(t, first, "elsewhere") == nil {
		t.Error("it is good at any host")
	}
	broken := maps.Clone(first)
	broken["tls.key"] = leafKey(t, entries)
	cases := map[string]struct {
		have  map[string][]byte
		keys  map[string][]byte
		hosts []string
		after time.Duration
		want  string // in the reason; "" when it is kept
	}{
		"as it was":              {first, entries, hosts, 0, ""},
		"hosts in another order": {first, entries, []string{hosts[3], hosts[2], hosts[1], hosts[0]}, 0, ""},
		"half of its life over":  {first, entries, hosts, 182 * 24 * time.Hour, ""},
		"a quarter left":         {first, entries, hosts, 274 * 24 * time.Hour, "expires"},
		"expired":                {first, entries, hosts, 2 * 365 * 24 * time.Hour, "expires"},
		"one host more":          {first, entries, append(slices.Clone(hosts), "fleet.example.com"), 0, "fleet.example.com"},
		"one host less":          {first, entries, hosts[1:], 0, "no longer wanted"},
		"another authority":      {first, complete(t, nil), hosts, 0, "another authority"},
		"another's key":          {broken, entries, hosts, 0, "read"},
		"nothing":                {map[string][]byte{}, entries, hosts, 0, "none"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, why, err := keys.Certify(c.have, c.keys, c.hosts, now.Add(c.after))
			if err != nil || (why == "") != (c.want == "") || !strings.Contains(why, c.want) {
				t.Fatalf("got %q, %v, want %q", why, err, c.want)
			}
			if _, again, err := keys.Certify(got, c.keys, c.hosts, now.Add(c.after)); err != nil || again != "" {
				t.Errorf("and then again: %q, %v", again, err)
			}
		})
	}
}

func leafKey(t *testing.T, entries map[string][]byte) []byte {
	t.Helper()
	made, _, err := keys.Certify(nil, entries, []string{"nats"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return made["tls.key"]
}

// trusted is why who trusts ca.crt alone does not take the certificate for the
// host's.
func trusted(t *testing.T, entries map[string][]byte, host string) error {
	t.Helper()
	pair, err := tls.X509KeyPair(entries["tls.crt"], entries["tls.key"])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(entries["ca.crt"]) {
		t.Fatal("ca.crt holds no certificate")
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
			return err
		}
	}
	return nil
}
