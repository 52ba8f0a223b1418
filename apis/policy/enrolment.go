package policy

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// tokenForm begins every token of enrolment: it tells them apart from the tokens
// of a provider, and one version of the form from the next.
const tokenForm = "fleet-join-v1"

// secretBytes is how much of a token cannot be guessed.
const secretBytes = 32

// secretEncoding survives being typed, and has no sign that a shell minds.
var secretEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// Why a token of enrolment lets nobody in.
var (
	// ErrToken says that a text is no token of enrolment, or not the one that was
	// given out last.
	ErrToken = errors.New("not a token of enrolment that was given out")
	// ErrExpired says that the token came too late.
	ErrExpired = errors.New("the token of enrolment has expired")
)

// Token is what a device shows once, to have its own key written into its policy.
// It is a secret: print it with Text, where it is meant to be read.
type Token struct {
	Device wire.DeviceID
	secret string // in base32, lower case
}

// NewToken makes a token for the device that nobody can guess.
func NewToken(device wire.DeviceID) Token {
	secret := make([]byte, secretBytes)
	_, _ = rand.Read(secret) // never fails
	return Token{Device: device, secret: strings.ToLower(secretEncoding.EncodeToString(secret))}
}

// IsToken reports whether the text means to be a token of enrolment.
func IsToken(text string) bool { return strings.HasPrefix(text, tokenForm+".") }

// ParseToken reads a token. It fails with ErrToken, and tells nothing of it.
func ParseToken(text string) (Token, error) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 || parts[0] != tokenForm {
		return Token{}, fmt.Errorf("%w: it looks like %s.DEVICE.SECRET", ErrToken, tokenForm)
	}
	device, err := wire.ParseDeviceID(parts[1])
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	secret, err := secretEncoding.DecodeString(strings.ToUpper(parts[2]))
	// The decoder skips line ends.
	if err != nil || len(secret) != secretBytes || parts[2] != strings.ToLower(secretEncoding.EncodeToString(secret)) {
		return Token{}, fmt.Errorf("%w: the last part is damaged; copy all of it", ErrToken)
	}
	return Token{Device: device, secret: parts[2]}, nil
}

// Text is the whole token.
func (t Token) Text() string { return tokenForm + "." + string(t.Device) + "." + t.secret }

// String is the token without its secret, so that no log has it by mistake.
func (t Token) String() string { return tokenForm + "." + string(t.Device) + ".…" }

// Digest identifies the token and does not tell it.
func (t Token) Digest() string {
	sum := sha256.Sum256([]byte(t.Text()))
	return hex.EncodeToString(sum[:])
}

// Enrolment is what is kept of a token until a device has used it.
type Enrolment struct {
	// Digest of the token, in hexadecimal.
	Digest string `json:"sha256"`
	// Expires is when the token does.
	Expires time.Time `json:"expires"`
}

// Enrolment is what is to be kept of the token.
func (t Token) Enrolment(expires time.Time) Enrolment {
	return Enrolment{Digest: t.Digest(), Expires: expires.UTC().Truncate(time.Second)}
}

// Admits fails with ErrToken for another token, and with ErrExpired.
func (e Enrolment) Admits(t Token, now time.Time) error {
	if subtle.ConstantTimeCompare([]byte(e.Digest), []byte(t.Digest())) != 1 {
		return ErrToken
	}
	if !now.Before(e.Expires) {
		return fmt.Errorf("%w at %s", ErrExpired, e.Expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// DecodeEnrolment reads an enrolment. It fails with ErrMalformed.
func DecodeEnrolment(data []byte) (Enrolment, error) {
	var e Enrolment
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&e); err != nil {
		return Enrolment{}, fmt.Errorf("%w: enrolment: %w", ErrMalformed, err)
	}
	if sum, err := hex.DecodeString(e.Digest); err != nil || len(sum) != sha256.Size || e.Expires.IsZero() {
		return Enrolment{}, fmt.Errorf("%w: enrolment: sha256 and expires are needed", ErrMalformed)
	}
	return e, nil
}

// Revocation says why a device is revoked. Whatever stands in its place revokes
// the device, so it is for people to read.
type Revocation struct {
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by,omitempty"`
	At     time.Time `json:"at,omitzero"`
	// Passing says that it is a step of something else, which ends it: the device
	// is being given another key, or removed.
	Passing bool `json:"passing,omitempty"`
}

// DecodeRevocation reads as much as can be read.
func DecodeRevocation(data []byte) Revocation {
	var r Revocation
	if json.Unmarshal(data, &r) != nil {
		return Revocation{}
	}
	r.Reason, r.By = wire.CleanText(r.Reason, wire.MaxMessage), wire.CleanText(r.By, wire.MaxMessage)
	return r
}

// String says when, by whom and why, as far as that is known.
func (r Revocation) String() string {
	var parts []string
	if !r.At.IsZero() {
		parts = append(parts, "since "+r.At.UTC().Format(time.RFC3339))
	}
	if r.By != "" {
		parts = append(parts, "by "+r.By)
	}
	if r.Reason != "" {
		parts = append(parts, fmt.Sprintf("reason %q", r.Reason))
	}
	return strings.Join(parts, ", ")
}

// Records are all that is decided of one device, as they are at one moment.
type Records struct {
	// Policy is nil when there is none.
	Policy *Policy
	// Version is what has to be named to write the policy: who has read an older
	// one may not. It means something to the store alone; "" says that nothing is
	// there.
	Version string
	// Enrolment is nil when the device has no token to use.
	Enrolment *Enrolment
	// Revocation is nil when the device is not revoked; RevocationVersion is to its
	// place what Version is to the policy's.
	Revocation        *Revocation
	RevocationVersion string
}

// ErrChanged says that somebody else has written first.
var ErrChanged = errors.New("somebody else has changed it meanwhile")
