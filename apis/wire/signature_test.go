package wire_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

var notAfter = time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)

// testSeed is the seed of a key, one for each number.
func testSeed(prefix nkeys.PrefixByte, number byte) []byte {
	seed, err := nkeys.EncodeSeed(prefix, bytes.Repeat([]byte{number}, 32))
	if err != nil {
		panic(err)
	}
	return seed
}

// testSigner signs with the keys of these numbers.
func testSigner(numbers ...byte) *wire.Signer {
	var seeds [][]byte
	for _, n := range numbers {
		seeds = append(seeds, testSeed(nkeys.PrefixByteOperator, n))
	}
	s, err := wire.NewSigner(seeds...)
	if err != nil {
		panic(err)
	}
	return s
}

func signed(t *testing.T, s *wire.Signer, device wire.DeviceID) []byte {
	t.Helper()
	data, err := s.Sign(device, wire.Manifest{Generation: 7, NotAfter: notAfter, Deployments: map[string]wire.ManifestEntry{"shop.web": {Revision: 3, Digest: digest}}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestVerify(t *testing.T) {
	good := signed(t, testSigner(1), "pi-1")
	replace := func(old, with string) []byte { return bytes.Replace(good, []byte(old), []byte(with), 1) }
	cases := map[string]struct {
		stored  []byte
		trusted []string
		ok      bool
	}{
		"as signed":                       {good, testSigner(1).Keys(), true},
		"one of two trusted keys":         {good, testSigner(2, 1).Keys(), true},
		"two keys signed, one is trusted": {signed(t, testSigner(3, 1), "pi-1"), testSigner(1).Keys(), true},
		"trust in nothing":                {good, nil, false},
		"trust in an empty key":           {good, []string{""}, false},
		"another key":                     {good, testSigner(2).Keys(), false},
		"for another device":              {signed(t, testSigner(1), "pi-2"), testSigner(1).Keys(), false},
		"renamed to this device":          {bytes.ReplaceAll(signed(t, testSigner(1), "pi-2"), []byte("pi-2"), []byte("pi-1")), testSigner(1).Keys(), false},
		"another generation":              {replace(`"generation":7`, `"generation":8`), testSigner(1).Keys(), false},
		"a longer life":                   {replace(`2027-`, `2037-`), testSigner(1).Keys(), false},
		"another digest":                  {replace(string(digest), strings.Replace(string(digest), "9f", "9e", 1)), testSigner(1).Keys(), false},
		"another key named as the signer": {replace(`"key":"`+testSigner(1).Keys()[0], `"key":"`+testSigner(2).Keys()[0]), testSigner(2).Keys(), false},
		"white space":                     {replace(`{"device"`, `{ "device"`), testSigner(1).Keys(), false},
		"no signature":                    {append(good[:bytes.Index(good, []byte(`"signatures"`)):bytes.Index(good, []byte(`"signatures"`))], `"signatures":[]}`...), testSigner(1).Keys(), false},
		"an empty signature":              {append(good[:bytes.LastIndex(good, []byte(`"signature":`)):bytes.LastIndex(good, []byte(`"signature":`))], `"signature":""}]}`...), testSigner(1).Keys(), false},
	}
	for reason, c := range cases {
		t.Run(reason, func(t *testing.T) {
			m, err := wire.DecodeSignedManifest(c.stored)
			if err != nil {
				t.Fatal(err)
			}
			err = m.Verify("pi-1", c.trusted)
			if c.ok && err != nil || !c.ok && !errors.Is(err, wire.ErrUntrusted) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestSignedKnowsItsOwn: what this signer would write differently must be written
// again, and nothing else.
func TestSignedKnowsItsOwn(t *testing.T) {
	for reason, c := range map[string]struct {
		by     *wire.Signer
		device wire.DeviceID
		want   bool
	}{
		"its own":             {testSigner(1, 2), "pi-1", true},
		"before a second key": {testSigner(1), "pi-1", false},
		"keys in other order": {testSigner(2, 1), "pi-1", false},
		"another's":           {testSigner(3), "pi-1", false},
		"another device":      {testSigner(1, 2), "pi-2", false},
	} {
		m, err := wire.DecodeSignedManifest(signed(t, c.by, c.device))
		if err != nil {
			t.Fatal(err)
		}
		if got := testSigner(1, 2).Signed("pi-1", m); got != c.want {
			t.Errorf("%s: %v", reason, got)
		}
	}
	damaged := bytes.Replace(signed(t, testSigner(1, 2), "pi-1"), []byte(`"generation":7`), []byte(`"generation":9`), 1)
	if m, err := wire.DecodeSignedManifest(damaged); err != nil || testSigner(1, 2).Signed("pi-1", m) {
		t.Errorf("a changed manifest passes for its own, %v", err)
	}
}

func TestFresh(t *testing.T) {
	m := wire.Manifest{NotAfter: notAfter}
	for reason, c := range map[string]struct {
		now   time.Time
		fresh bool
	}{
		"before":           {notAfter.Add(-time.Hour), true},
		"the last moment":  {notAfter, true},
		"after":            {notAfter.Add(time.Second), false},
		"ten years later":  {notAfter.AddDate(10, 0, 0), false},
		"the clock is off": {time.Unix(0, 0), true},
	} {
		if err := m.Fresh(c.now); (err == nil) != c.fresh || err != nil && !errors.Is(err, wire.ErrExpired) {
			t.Errorf("%s: %v", reason, err)
		}
	}
	old := wire.Manifest{NotAfter: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)}
	if err := old.Fresh(time.Unix(0, 0)); err != nil {
		t.Errorf("a clock of 1970 proves something: %v", err)
	}
}

func TestNewSignerRefuses(t *testing.T) {
	seed := testSeed(nkeys.PrefixByteOperator, 1)
	for reason, seeds := range map[string][][]byte{
		"no key":         nil,
		"five keys":      {seed, seed, seed, seed, seed},
		"the same twice": {seed, seed},
		"a user's key":   {testSeed(nkeys.PrefixByteUser, 1)},
		"a public key":   {[]byte(testSigner(1).Keys()[0])},
		"no key at all":  {[]byte("hunter2")},
		"an empty file":  {nil},
	} {
		if _, err := wire.NewSigner(seeds...); err == nil {
			t.Errorf("%s: accepted", reason)
		} else if strings.Contains(err.Error(), "SO") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error tells the secret: %v", reason, err)
		}
	}
}
