package wire_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

func TestParseDeviceID(t *testing.T) {
	for _, good := range []string{"a", "pi-4", "pi-42", "0", strings.Repeat("a", 63)} {
		if _, err := wire.ParseDeviceID(good); err != nil {
			t.Errorf("%q is refused: %v", good, err)
		}
	}
	bad := []string{
		"", "-a", "a-", "A", "a.b", "a_b", "*", ">", "a*", "a b", "a\n", "a\x00", "ü", "а", // the last is Cyrillic
		"pi-4.", "pi-4.>", "$KV", strings.Repeat("a", 64), "a\u200d", "a/b",
	}
	for _, id := range bad {
		if _, err := wire.ParseDeviceID(id); !errors.Is(err, wire.ErrInvalidName) {
			t.Errorf("%q: got error %v, want ErrInvalidName", id, err)
		}
	}
}

func TestDeploymentKeys(t *testing.T) {
	dep := wire.DeploymentID{Namespace: "shop", Name: "web"}
	key := wire.DeploymentKey("pi-4", dep)
	if key != "pi-4.shop.web" {
		t.Fatalf("key is %q", key)
	}
	id, got, err := wire.ParseDeploymentKey(key)
	if err != nil || id != "pi-4" || got != dep {
		t.Errorf("parsed %v %v %v", id, got, err)
	}
	for _, poison := range []string{"", "pi-4", "pi-4.shop", "pi-4.shop.web.x", "pi-4..web", "pi-4.shop.*", "pi-4.shop.>", "PI.shop.web", "pi-4.shop.w\x00b", "pi-4.shop.w\xff"} {
		if _, _, err := wire.ParseDeploymentKey(poison); !errors.Is(err, wire.ErrInvalidName) {
			t.Errorf("%q: got error %v, want ErrInvalidName", poison, err)
		}
	}
}

// FuzzParseDeploymentKey: a key that parses is the key it prints.
func FuzzParseDeploymentKey(f *testing.F) {
	f.Add("pi-4.shop.web")
	f.Add("a.b.c.d")
	f.Add("a.\x00.c")
	f.Fuzz(func(t *testing.T, key string) {
		id, dep, err := wire.ParseDeploymentKey(key)
		if err == nil && wire.DeploymentKey(id, dep) != key {
			t.Fatalf("%q parsed to %v %v", key, id, dep)
		}
	})
}

func TestBucketSubjects(t *testing.T) {
	for _, b := range wire.Buckets() {
		if key, ok := b.Key(b.Subject("pi-4.a.b")); !ok || key != "pi-4.a.b" {
			t.Errorf("%s: subject and key do not agree: %q", b.Name, key)
		}
		if _, ok := b.Key("$KV.other.pi-4"); ok {
			t.Errorf("%s takes a subject of another bucket", b.Name)
		}
	}
}
