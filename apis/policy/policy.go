// Package policy is what is decided of one device in the store of policies: that
// it exists, which labels it may claim, with which key of its own and from where
// it may connect; and how that key gets there, by a token that works once. The auth
// callout and the operator read it; a device can neither read nor write it.
//
// It is plain values and pure functions; where policies are kept is the business
// of the programs.
package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/nats-io/nkeys"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Bounds of a policy.
const (
	// MaxBytes bounds the encoding.
	MaxBytes = 64 << 10
	// MaxValues bounds the values that one label may have.
	MaxValues = 64
	// MaxSources bounds the networks.
	MaxSources = 16
)

// AnyValue, as the only value of a label, lets the device choose it.
const AnyValue = "*"

// ErrMalformed says that a policy cannot be read: nobody is let in by it.
var ErrMalformed = errors.New("malformed policy")

// ErrNone says that nothing is decided of a device: it was never enrolled, or is
// removed.
var ErrNone = errors.New("there is no policy of the device")

// ErrRevoked says that the device is refused and cut off, whatever its policy.
var ErrRevoked = errors.New("the device is revoked")

// Policy is what is decided of one device.
type Policy struct {
	// Labels that the device may claim, with the values that they may have.
	Labels map[string][]string `json:"labels,omitempty"`
	// NKey is the public user nkey ("U…") with which the device proves who it is
	// where there is no provider of tokens; "" for none.
	NKey string `json:"nkey,omitempty"`
	// Sources are the networks that the device may connect from, such as
	// "192.0.2.0/24"; none means from anywhere.
	Sources []string `json:"sources,omitempty"`
}

// Decode reads a policy. It fails with ErrMalformed: also for a field that is
// unknown, since it may forbid something.
func Decode(data []byte) (Policy, error) {
	if len(data) > MaxBytes {
		return Policy{}, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(data), MaxBytes)
	}
	var p Policy
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		return Policy{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if decoder.More() {
		return Policy{}, fmt.Errorf("%w: more than one value", ErrMalformed)
	}
	if err := p.validate(); err != nil {
		return Policy{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return p, nil
}

// Encode checks the policy and writes it.
func (p Policy) Encode() ([]byte, error) {
	if err := p.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return json.Marshal(p)
}

func (p Policy) validate() error {
	if len(p.Labels) > wire.MaxLabels {
		return fmt.Errorf("labels: %d, at most %d", len(p.Labels), wire.MaxLabels)
	}
	for key, values := range p.Labels {
		if key == "" || len(key) > wire.MaxLabelText {
			return fmt.Errorf("labels: a key of %d bytes, want 1 to %d", len(key), wire.MaxLabelText)
		}
		if len(values) == 0 || len(values) > MaxValues {
			return fmt.Errorf("labels: %q has %d values, want 1 to %d", key, len(values), MaxValues)
		}
		for _, value := range values {
			if len(value) > wire.MaxLabelText {
				return fmt.Errorf("labels: a value of %q has %d bytes, at most %d", key, len(value), wire.MaxLabelText)
			}
		}
	}
	if p.NKey != "" && !nkeys.IsValidPublicUserKey(p.NKey) {
		return errors.New("nkey: not the public nkey of a user (U…)")
	}
	if len(p.Sources) > MaxSources {
		return fmt.Errorf("sources: %d, at most %d", len(p.Sources), MaxSources)
	}
	for _, source := range p.Sources {
		if _, err := netip.ParsePrefix(source); err != nil {
			return fmt.Errorf(`sources: %q is not a network such as "192.0.2.0/24"`, source)
		}
	}
	return nil
}

// From reports whether the device may connect from the address.
func (p Policy) From(address string) bool {
	if len(p.Sources) == 0 {
		return true
	}
	from, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(p.Sources, func(source string) bool {
		network, err := netip.ParsePrefix(source)
		return err == nil && network.Contains(from.Unmap())
	})
}

// Allows reports whether the device may claim the label.
func (p Policy) Allows(key, value string) bool {
	values := p.Labels[key]
	return slices.Contains(values, value) || len(values) == 1 && values[0] == AnyValue
}
