package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// ErrMalformed says that a payload is not what its bucket or subject carries.
// Whoever reads it counts it, logs it once and skips it: a payload that cannot
// be read never means "delete".
var ErrMalformed = errors.New("malformed payload")

// encode is the canonical encoding: compact JSON, fields in the order of the
// type, map keys sorted.
func encode(what string, value any) ([]byte, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", what, err)
	}
	return data, nil
}

// decode reads JSON strictly where it matters: size, UTF-8, types and trailing
// data. Unknown fields are tolerated, so that either side may be the newer one.
func decode(what string, data []byte, limit int, into any) error {
	if len(data) > limit {
		return fmt.Errorf("%s: %w: %d bytes, at most %d", what, ErrMalformed, len(data), limit)
	}
	if !utf8.Valid(data) {
		return fmt.Errorf("%s: %w: invalid UTF-8", what, ErrMalformed)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w: %w", what, ErrMalformed, err)
	}
	return nil
}

// malformed is an ErrMalformed that says what is wrong.
func malformed(what, problem string) error {
	return fmt.Errorf("%s: %w: %s", what, ErrMalformed, problem)
}

// CleanText makes text from a device fit to be shown: control characters, which
// could steer a terminal or split a log line, become spaces, and what is beyond
// limit bytes is cut at a whole character.
func CleanText(text string, limit int) string {
	if len(text) <= limit && plainASCII(text) {
		return text
	}
	clean := []rune{}
	size := 0
	for _, r := range text {
		if unicode.IsControl(r) || r == utf8.RuneError || unicode.Is(unicode.Bidi_Control, r) {
			r = ' '
		}
		if size += utf8.RuneLen(r); size > limit {
			break
		}
		clean = append(clean, r)
	}
	return string(clean)
}

// plainASCII is the usual case, told without an allocation.
func plainASCII(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}
