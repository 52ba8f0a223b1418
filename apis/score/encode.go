package score

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// ErrTooLarge says that a score's canonical encoding exceeds MaxBytes.
var ErrTooLarge = errors.New("score is too large")

// Digest identifies a score or a service by its canonical bytes:
// "sha256:" and 64 lower-case hex digits.
type Digest string

// DigestOf is the digest of canonical bytes.
func DigestOf(canonical []byte) Digest {
	sum := sha256.Sum256(canonical)
	return Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// Valid reports whether d has the shape of a digest.
func (d Digest) Valid() bool {
	digits, found := strings.CutPrefix(string(d), "sha256:")
	if !found || len(digits) != 2*sha256.Size {
		return false
	}
	for i := range len(digits) {
		if c := digits[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Short is the first 12 hex digits, for names and logs.
func (d Digest) Short() string {
	digits := strings.TrimPrefix(string(d), "sha256:")
	return digits[:min(12, len(digits))]
}

// Encode is the canonical encoding: JSON with the fields in the order of the
// types and nothing optional written. Equal scores have equal bytes. It fails
// with ErrTooLarge beyond MaxBytes.
func Encode(s Score) ([]byte, error) {
	canonical, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding score: %w", err)
	}
	if len(canonical) > MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(canonical), MaxBytes)
	}
	return canonical, nil
}

// Decode reads and validates a score. Unknown fields are tolerated, so that an
// older agent reads what a newer operator wrote; wrong types, invalid UTF-8,
// trailing data and more than MaxBytes are refused.
func Decode(data []byte) (Score, error) {
	if len(data) > MaxBytes {
		return Score{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(data), MaxBytes)
	}
	if !utf8.Valid(data) {
		return Score{}, errors.New("decoding score: invalid UTF-8")
	}
	var s Score
	if err := json.Unmarshal(data, &s); err != nil {
		return Score{}, fmt.Errorf("decoding score: %w", err)
	}
	if err := s.Validate(); err != nil {
		return Score{}, fmt.Errorf("decoding score: %w", err)
	}
	return s, nil
}

// Digest identifies this service alone, so that a change to one service of a
// Deployment leaves the others running.
func (svc Service) Digest() Digest {
	canonical, err := json.Marshal(svc)
	if err != nil {
		// Service holds strings and numbers alone: Marshal has nothing to refuse.
		panic("encoding service: " + err.Error())
	}
	return DigestOf(canonical)
}
