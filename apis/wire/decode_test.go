package wire_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// decoders are all strict decoders, so that each property holds for each.
var decoders = map[string]struct {
	decode func([]byte) (any, error)
	encode func(any) ([]byte, error)
	valid  string
}{
	"manifest": {
		func(b []byte) (any, error) { return wire.DecodeSignedManifest(b) },
		func(v any) ([]byte, error) {
			m := v.(wire.SignedManifest)
			return testSigner(1).Sign(m.Device, m.Manifest)
		},
		manifest(`"device":"pi-1","generation":1,"notAfter":"2027-01-01T00:00:00Z","keys":["` + testSigner(1).Keys()[0] + `"],"deployments":{"a.b":{"revision":1,"digest":"` + string(digest) + `"}}`),
	},
	"device info": {
		func(b []byte) (any, error) { return wire.DecodeDeviceInfo(b) },
		func(v any) ([]byte, error) { return v.(wire.DeviceInfo).Encode() },
		`{"labels":{"group":"a"},"inventory":{"hostname":"pi"}}`,
	},
	"device state": {
		func(b []byte) (any, error) { return wire.DecodeDeviceState(b) },
		func(v any) ([]byte, error) { return v.(wire.DeviceState).Encode() },
		`{"phase":"Failed","reason":"CrashLoop","message":"exit 1","digest":"` + string(digest) + `"}`,
	},
	"heartbeat": {
		func(b []byte) (any, error) { return wire.DecodeHeartbeat(b) },
		func(v any) ([]byte, error) { return v.(wire.Heartbeat).Encode() },
		`{"session":"0a1b2c3d","generation":4}`,
	},
	"logs request": {
		func(b []byte) (any, error) { return wire.DecodeLogsRequest(b) },
		func(v any) ([]byte, error) { return v.(wire.LogsRequest).Encode() },
		`{"namespace":"a","deployment":"b","lines":5}`,
	},
	"logs reply": {
		func(b []byte) (any, error) { return wire.DecodeReply[wire.LogsReply](b) },
		func(v any) ([]byte, error) { return wire.EncodeReply(v.(wire.LogsReply)) },
		`{"logs":[{"service":"a","container":"b","lines":["x"]}]}`,
	},
	"ping reply": {
		func(b []byte) (any, error) { return wire.DecodeReply[wire.PingReply](b) },
		func(v any) ([]byte, error) { return wire.EncodeReply(v.(wire.PingReply)) },
		`{"agentVersion":"1","uptimeSeconds":3}`,
	},
}

// manifest is what is stored, without a signature.
func manifest(fields string) string { return `{"manifest":{` + fields + `},"signatures":[]}` }

// changed is the valid manifest with one change.
func changed(old, with string) string {
	return strings.Replace(decoders["manifest"].valid, old, with, 1)
}

func TestDecodersAreStrict(t *testing.T) {
	for name, d := range decoders {
		t.Run(name, func(t *testing.T) {
			if _, err := d.decode([]byte(d.valid)); err != nil {
				t.Errorf("a valid payload is refused: %v", err)
			}
			tolerated := strings.Replace(d.valid, "{", `{"fromTheFuture":{"x":[1,2]},`, 1)
			if name != "heartbeat" { // has no room for one
				if _, err := d.decode([]byte(tolerated)); err != nil {
					t.Errorf("an unknown field is refused: %v", err)
				}
			}
			refused := map[string]string{
				"empty":          "",
				"null bytes":     "\x00\x00",
				"array":          "[]",
				"string":         `"x"`,
				"trailing data":  d.valid + "{}",
				"cut":            d.valid[:len(d.valid)-1],
				"invalid UTF-8":  strings.Replace(d.valid, `"`, "\"\xff", 1),
				"oversize":       strings.Replace(d.valid, "{", `{"pad":"`+strings.Repeat("x", 1<<20)+`",`, 1),
				"wrong types":    strings.NewReplacer(`:"`, `:[],"x":"`, `:1`, `:"1"`, `:4`, `:"4"`, `:5`, `:{}`).Replace(d.valid),
				"deeply nested":  strings.Repeat("[", 20000),
				"a number alone": "17",
			}
			for reason, payload := range refused {
				if _, err := d.decode([]byte(payload)); !errors.Is(err, wire.ErrMalformed) {
					t.Errorf("%s: got error %v, want ErrMalformed", reason, err)
				}
			}
		})
	}
}

func TestDecodersRefuseBadValues(t *testing.T) {
	cases := map[string]struct{ decoder, payload string }{
		"generation zero":               {"manifest", changed(`"generation":1`, `"generation":0`)},
		"generation beyond 2^53":        {"manifest", changed(`"generation":1`, `"generation":9007199254740992`)},
		"negative generation":           {"manifest", changed(`"generation":1`, `"generation":-1`)},
		"deployments missing":           {"manifest", changed(`"deployments"`, `"developments"`)},
		"deployment with a wildcard":    {"manifest", changed(`a.b`, `a.*`)},
		"deployment with three parts":   {"manifest", changed(`a.b`, `a.b.c`)},
		"digest cut":                    {"manifest", changed(string(digest), `sha256:00`)},
		"device with a dot":             {"manifest", changed(`pi-1`, `pi.1`)},
		"no device":                     {"manifest", changed(`"device"`, `"devise"`)},
		"no end":                        {"manifest", changed(`"notAfter"`, `"notafterwards"`)},
		"an end that is no time":        {"manifest", changed(`2027-01-01T`, `2027-01-01 `)},
		"no keys":                       {"manifest", changed(testSigner(1).Keys()[0], ``)},
		"five keys":                     {"manifest", changed(`"keys":[`, `"keys":["1","2","3","4",`)},
		"a key of a user":               {"manifest", changed(`"keys":["O`, `"keys":["U`)},
		"five signatures":               {"manifest", changed(`"signatures":[`, `"signatures":[{},{},{},{},{}`)},
		"a signature that is no base64": {"manifest", changed(`"signatures":[`, `"signatures":[{"key":"x","signature":"%"}`)},
		"no manifest":                   {"manifest", `{"signatures":[]}`},
		"a manifest that is null":       {"manifest", `{"manifest":null,"signatures":[]}`},
		"unknown phase":                 {"device state", `{"phase":"Great","digest":"` + string(digest) + `"}`},
		"phase missing":                 {"device state", `{"digest":"` + string(digest) + `"}`},
		"digest in upper case":          {"device state", `{"phase":"Failed","digest":"` + strings.ToUpper(string(digest)) + `"}`},
		"seventeen containers":          {"device state", `{"phase":"Failed","digest":"` + string(digest) + `","containers":[` + strings.Repeat(`{},`, 16) + `{}]}`},
		"label with an empty key":       {"device info", `{"labels":{"":"x"}}`},
		"label value too long":          {"device info", `{"labels":{"a":"` + strings.Repeat("x", 513) + `"}}`},
		"negative memory":               {"device info", `{"inventory":{"memoryBytes":-1}}`},
		"session in upper case":         {"heartbeat", `{"session":"0A1B2C3D","generation":1}`},
		"session too short":             {"heartbeat", `{"session":"0a","generation":1}`},
		"reported generation too large": {"heartbeat", `{"session":"0a1b2c3d","generation":9007199254740992}`},
		"namespace with a dot":          {"logs request", `{"namespace":"a.b","deployment":"c"}`},
		"service with a wildcard":       {"logs request", `{"namespace":"a","deployment":"c","service":">"}`},
		"more lines than allowed":       {"logs request", `{"namespace":"a","deployment":"c","lines":5001}`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := decoders[c.decoder].decode([]byte(c.payload)); !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("got error %v, want ErrMalformed", err)
			}
		})
	}
}

// TestTextsAreCleaned: what a device writes must not steer a terminal.
func TestTextsAreCleaned(t *testing.T) {
	got, err := wire.DecodeDeviceState([]byte(`{"phase":"Failed","reason":"A\u001b[31mB","message":"one\ntwo\u202ethree` +
		strings.Repeat("é", 1024) + `","digest":"` + string(digest) + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	if got.Reason != "A [31mB" {
		t.Errorf("reason is %q", got.Reason)
	}
	if strings.ContainsAny(got.Message, "\n\u202e") || len(got.Message) > wire.MaxMessage || !strings.HasSuffix(got.Message, "é") {
		t.Errorf("message is not cleaned or not cut at a character: %q", got.Message)
	}
}

// FuzzDecode: no decoder panics, and what one accepts is stable: encoded and
// decoded once more it is the same.
func FuzzDecode(f *testing.F) {
	for name, d := range decoders {
		f.Add(name, []byte(d.valid))
	}
	f.Add("device state", []byte(`{"phase":"Failed","message":"\u202e\ufffd","digest":"`+string(digest)+`"}`))
	f.Add("device info", []byte("{\"labels\":{\"a\":\"\u0000\"}}"))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		d, known := decoders[name]
		if !known {
			return
		}
		first, err := d.decode(data)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) {
				t.Fatalf("error %v is not ErrMalformed", err)
			}
			return
		}
		encoded, err := d.encode(first)
		if err != nil {
			t.Fatalf("accepted but not encodable: %v", err)
		}
		second, err := d.decode(encoded)
		if err != nil {
			if strings.Contains(err.Error(), "at most") {
				return // escaping may lengthen a payload beyond its bound
			}
			t.Fatalf("own encoding is refused: %v\n%s", err, encoded)
		}
		again, err := d.encode(second)
		if err != nil || !cmp.Equal(encoded, again) {
			t.Fatalf("not canonical:\n%s\n%s", encoded, again)
		}
	})
}
