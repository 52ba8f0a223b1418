// Package keys makes what an install needs that brings no credentials of its own:
// the nkeys of its programs, a password for people, and a certificate for the
// broker, in two Secrets of its namespace.
//
// It adds what is missing and issues the certificate anew in time. It never
// replaces a key, removes nothing, and logs no value.
package keys

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"maps"

	"github.com/nats-io/nkeys"
)

// Entries of the Secret of keys beside the pairs.
const (
	// AdminPassword is that of the broker's user for people.
	AdminPassword = "admin.password"
	// AuthorityCert and AuthorityKey sign the broker's certificate, in PEM.
	AuthorityCert = "ca.crt"
	AuthorityKey  = "ca.key"
)

// Pair is one nkey: its seed and its public part are two entries of the Secret.
type Pair struct {
	Name string
	// Kind is what the key is to NATS.
	Kind nkeys.PrefixByte
	// begins is how every seed of the kind does.
	begins string
}

// Seed is the entry with the secret part.
func (p Pair) Seed() string { return p.Name + ".seed" }

// Public is the entry with the public part.
func (p Pair) Public() string { return p.Name + ".pub" }

// Pairs are the nkeys of an install.
func Pairs() []Pair {
	return []Pair{
		{"operator", nkeys.PrefixByteUser, "SU"},    // fleet-operator, at the broker
		{"streams", nkeys.PrefixByteUser, "SU"},     // who makes the streams
		{"callout", nkeys.PrefixByteUser, "SU"},     // fleet-callout, at the broker
		{"issuer", nkeys.PrefixByteAccount, "SA"},   // signs who may connect
		{"xkey", nkeys.PrefixByteCurve, "SX"},       // encrypts what the broker asks
		{"signing", nkeys.PrefixByteOperator, "SO"}, // signs desired state
	}
}

// Complete returns the Secret's entries with those that were missing, and tells
// which. An entry that is there and cannot be what it should be is an error, and
// nothing is made.
func Complete(have map[string][]byte) (all map[string][]byte, made []string, err error) {
	all = maps.Clone(have)
	if all == nil {
		all = map[string][]byte{}
	}
	for _, p := range Pairs() {
		anew, err := p.complete(all)
		if err != nil {
			return nil, nil, err
		}
		made = append(made, anew...)
	}
	if len(all[AdminPassword]) == 0 {
		all[AdminPassword] = []byte(rand.Text())
		made = append(made, AdminPassword)
	}
	if len(all[AuthorityCert]) == 0 && len(all[AuthorityKey]) == 0 {
		a, err := newAuthority()
		if err != nil {
			return nil, nil, err
		}
		all[AuthorityCert], all[AuthorityKey] = a.certPEM, a.keyPEM
		made = append(made, AuthorityCert, AuthorityKey)
	}
	if _, err := readAuthority(all); err != nil {
		return nil, nil, err
	}
	return all, made, nil
}

// complete adds to the entries what they lack of the pair.
func (p Pair) complete(entries map[string][]byte) (made []string, err error) {
	if len(entries[p.Seed()]) == 0 {
		if len(entries[p.Public()]) > 0 {
			return nil, fmt.Errorf("entry %q is there, and %q is not: add the seed that belongs to it, or remove both for a new pair", p.Public(), p.Seed())
		}
		pair, err := nkeys.CreatePair(p.Kind)
		if err != nil {
			return nil, fmt.Errorf("making the key %q: %w", p.Name, err)
		}
		if entries[p.Seed()], err = pair.Seed(); err != nil {
			return nil, fmt.Errorf("making the key %q: %w", p.Name, err)
		}
		made = append(made, p.Seed())
	}
	kind, _, err := nkeys.DecodeSeed(bytes.TrimSpace(entries[p.Seed()]))
	if err != nil || kind != p.Kind {
		return nil, fmt.Errorf("entry %q is not the seed of an nkey that begins with %s: mend it, or remove it for a new one", p.Seed(), p.begins)
	}
	pair, err := nkeys.FromSeed(bytes.TrimSpace(entries[p.Seed()]))
	if err != nil {
		return nil, fmt.Errorf("entry %q: %w", p.Seed(), err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("entry %q: %w", p.Seed(), err)
	}
	if len(entries[p.Public()]) == 0 {
		entries[p.Public()] = []byte(public)
		return append(made, p.Public()), nil
	}
	if held := string(bytes.TrimSpace(entries[p.Public()])); held != public {
		return nil, fmt.Errorf("entry %q is %s, and the public part of %q is %s: they are not of one pair", p.Public(), held, p.Seed(), public)
	}
	return made, nil
}
