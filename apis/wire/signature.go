package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nkeys"
)

// MaxSigners bounds the keys that sign manifests at one time: one, and two while
// one replaces another.
const MaxSigners = 4

// signedContext begins what is signed, so that a signature made for anything
// else never fits a manifest.
const signedContext = "harmony-fleet manifest v1\n"

// ErrUntrusted says that a manifest is not signed by a key that the reader trusts,
// or is signed for another device.
var ErrUntrusted = errors.New("not signed by a trusted key for this device")

// ErrExpired says that a manifest is no longer to be taken over.
var ErrExpired = errors.New("expired")

// SignedManifest is a manifest as it is stored, with who signed it. The broker
// and whoever may write to it can withhold it, and cannot change it.
type SignedManifest struct {
	Manifest
	// signed is the very text that the signatures are about.
	signed     []byte
	signatures []signature
}

// signedJSON is what is stored: the signatures are about the bytes of Manifest
// as they stand.
type signedJSON struct {
	Manifest   json.RawMessage `json:"manifest"`
	Signatures []signature     `json:"signatures"`
}

type signature struct {
	// Key is the public nkey of the signer.
	Key string `json:"key"`
	// Signature is Ed25519's, in base64.
	Signature []byte `json:"signature"`
}

// DecodeSignedManifest reads what is stored under a device's own key, and trusts
// none of it: see Verify. It fails with ErrMalformed.
func DecodeSignedManifest(data []byte) (SignedManifest, error) {
	var stored signedJSON
	if err := decode("signed manifest", data, int(DesiredState.MaxMessageSize), &stored); err != nil {
		return SignedManifest{}, err
	}
	if len(stored.Signatures) > MaxSigners {
		return SignedManifest{}, malformed("signed manifest", fmt.Sprintf("%d signatures, at most %d", len(stored.Signatures), MaxSigners))
	}
	m, err := decodeManifest(stored.Manifest)
	if err != nil {
		return SignedManifest{}, err
	}
	return SignedManifest{Manifest: m, signed: stored.Manifest, signatures: stored.Signatures}, nil
}

// Verify checks that one of the trusted keys signed the manifest for the device.
// It fails with ErrUntrusted.
func (s SignedManifest) Verify(device DeviceID, trusted []string) error {
	if s.Device != device {
		return fmt.Errorf("manifest of device %q: %w", s.Device, ErrUntrusted)
	}
	for _, key := range trusted {
		if s.signedBy(key) {
			return nil
		}
	}
	return fmt.Errorf("manifest of device %q: %w (signed by %v, trusted are %v)", device, ErrUntrusted, s.Signers(), trusted)
}

// Signers are the keys that the manifest says it is signed by.
func (s SignedManifest) Signers() []string {
	var keys []string
	for _, sig := range s.signatures {
		keys = append(keys, CleanText(sig.Key, 64))
	}
	return keys
}

func (s SignedManifest) signedBy(key string) bool {
	public, err := nkeys.FromPublicKey(key)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(s.signatures, func(sig signature) bool {
		return sig.Key == key && public.Verify(toSign(s.signed), sig.Signature) == nil
	})
}

// Fresh checks that the manifest may still be taken over at that time. It fails
// with ErrExpired. A clock that stands before earliestClock proves nothing: a
// device without a battery starts in 1970.
func (m Manifest) Fresh(now time.Time) error {
	if now.After(m.NotAfter) && now.After(earliestClock) {
		return fmt.Errorf("manifest is valid until %s, and the clock here says %s: %w",
			m.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), ErrExpired)
	}
	return nil
}

// earliestClock is before this software was made.
var earliestClock = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Signer signs manifests, with each of its keys: while one key replaces another
// both do, so that a device that knows either one goes on.
type Signer struct {
	pairs  []nkeys.KeyPair
	public []string
}

// NewSigningKey makes a key and returns its seed, which is a secret.
func NewSigningKey() (seed []byte, err error) {
	pair, err := nkeys.CreateOperator()
	if err != nil {
		return nil, fmt.Errorf("making a signing key: %w", err)
	}
	return pair.Seed()
}

// NewSigner makes a signer of the seeds of nkeys of the type operator ("SO…"),
// as NewSigningKey and `nk -gen operator` make them.
func NewSigner(seeds ...[]byte) (*Signer, error) {
	if len(seeds) == 0 || len(seeds) > MaxSigners {
		return nil, fmt.Errorf("signing keys: want 1 to %d, got %d", MaxSigners, len(seeds))
	}
	s := &Signer{}
	for i, seed := range seeds {
		pair, err := nkeys.FromSeed(seed)
		if err != nil {
			return nil, fmt.Errorf("signing key %d: %w", i+1, err)
		}
		public, err := pair.PublicKey()
		if err != nil {
			return nil, fmt.Errorf("signing key %d: %w", i+1, err)
		}
		if err := CheckSigningKey(public); err != nil {
			return nil, fmt.Errorf("signing key %d: %w", i+1, err)
		}
		if slices.Contains(s.public, public) {
			return nil, fmt.Errorf("signing key %d: %s is there twice", i+1, public)
		}
		s.pairs, s.public = append(s.pairs, pair), append(s.public, public)
	}
	return s, nil
}

// CheckSigningKey checks that the text is the public part of a key that may sign
// manifests.
func CheckSigningKey(public string) error {
	if !nkeys.IsValidPublicOperatorKey(public) {
		return fmt.Errorf("%q is not the public nkey of an operator (O…)", CleanText(public, 64))
	}
	return nil
}

// Keys are the public keys, in the order of the seeds.
func (s *Signer) Keys() []string { return slices.Clone(s.public) }

// Sign makes the manifest the device's, names the keys that may sign the next
// one, and returns what is to be stored. Equal manifests become equal bytes.
func (s *Signer) Sign(device DeviceID, m Manifest) ([]byte, error) {
	m.Device, m.Keys = device, s.public
	signed, err := m.encode()
	if err != nil {
		return nil, err
	}
	stored := signedJSON{Manifest: signed}
	for i, pair := range s.pairs {
		text, err := pair.Sign(toSign(signed))
		if err != nil {
			return nil, fmt.Errorf("signing the manifest of %q: %w", device, err)
		}
		stored.Signatures = append(stored.Signatures, signature{Key: s.public[i], Signature: text})
	}
	return encode("signed manifest", stored)
}

// Signed reports whether the manifest is as this signer would sign it: for the
// device, naming its keys, and signed by each of them.
func (s *Signer) Signed(device DeviceID, m SignedManifest) bool {
	if m.Device != device || !slices.Equal(m.Keys, s.public) || len(m.signatures) != len(s.public) {
		return false
	}
	for _, key := range s.public {
		if !m.signedBy(key) {
			return false
		}
	}
	return true
}

func toSign(manifest []byte) []byte { return append([]byte(signedContext), manifest...) }
