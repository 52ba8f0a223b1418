package bus_test

import (
	"encoding/json"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
)

// TestSettingsAreTheStreams: what is documented of a bucket is what its stream is
// configured with, and nothing is left out.
func TestSettingsAreTheStreams(t *testing.T) {
	for _, b := range wire.Buckets() {
		configured := asJSON(t, bus.StreamConfig(b))
		delete(configured, "name")
		delete(configured, "description")
		documented := map[string]any{}
		for _, s := range b.Settings() {
			if s.Why == "" {
				t.Errorf("%s: %s has no reason", b.Name, s.Name)
			}
			documented[s.Name] = s.Value
		}
		documented = asJSON(t, documented)
		// What is off is off whether it is said or not.
		off := func(name string, value any) bool {
			return value == false || name == "max_age" && value == 0.0 || name == "compression" && value == "none" || name == "consumer_limits"
		}
		maps.DeleteFunc(configured, off)
		maps.DeleteFunc(documented, off)
		if diff := cmp.Diff(configured, documented); diff != "" {
			t.Errorf("%s (-configured +documented):\n%s", b.Name, diff)
		}
	}
}

func asJSON(t *testing.T, value any) map[string]any {
	t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	return all
}
