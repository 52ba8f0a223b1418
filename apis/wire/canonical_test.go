package wire_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// FuzzCanonicalState: canonical bytes, which are read without the JSON decoder,
// mean what the JSON decoder says. A space before them has it read them.
func FuzzCanonicalState(f *testing.F) {
	head, d := `{"phase":"Failed","reason":"A"`, `,"digest":"`+string(digest)+`"`
	for _, seed := range []string{
		head + d + `}`,
		head + `,"message":"exit 1"` + d + `}`,
		head + `,"message":""` + d + `,"containers":[]}`,
		head + `,"message":"a\u003cb \"c\" é"` + d + `}`,
		head + d + `,"containers":[{"service":"a","id":"b"},{"service":"c","id":"d"}]}`,
		head + d + `,"containers":[{"service":"a","id":"b"},]}`,
		head + d + `,"containers":[{"service":"a","id":"b"}]}}`,
		head + d + `,"phase":"Pending"}`,
		head + d,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= int(wire.DeviceStates.MaxMessageSize) {
			return // the space would make it too large
		}
		fast, fastErr := wire.DecodeDeviceState(data)
		slow, slowErr := wire.DecodeDeviceState(append([]byte(" "), data...))
		if (fastErr == nil) != (slowErr == nil) {
			t.Fatalf("errors differ: %v and, by the JSON decoder, %v\n%s", fastErr, slowErr, data)
		}
		if diff := cmp.Diff(slow, fast); diff != "" {
			t.Fatalf("(-JSON decoder +got):\n%s\n%s", diff, data)
		}
	})
}

func BenchmarkDecodeDeviceState(b *testing.B) {
	canonical, err := wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running", Digest: digest,
		Containers: []wire.ContainerRef{{Service: "web", ID: strings.Repeat("0", 64)}}}.Encode()
	if err != nil {
		b.Fatal(err)
	}
	for name, payload := range map[string][]byte{"canonical": canonical, "other": append([]byte(" "), canonical...)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := wire.DecodeDeviceState(payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
