package agent_test

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/agent/status"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// TestClone runs a second agent with the same device id: the page of each says so and
// what to do, and the device stays what the first says it is.
func TestClone(t *testing.T) {
	first := newDevice(t)
	second := *first
	second.cfg.Agent.StateDir, second.cfg.Labels = t.TempDir(), maps.Clone(first.cfg.Labels)
	second.cfg.Labels["site"] = "paris"
	page := func(d *device, words string) func() bool {
		return func() bool {
			view, err := status.Read(t.Context(), d.cfg)
			var page strings.Builder
			return err == nil && view.Print(&page, time.Now()) == nil &&
				strings.Contains(page.String(), "CONFLICT") && strings.Contains(page.String(), words) && strings.Contains(page.String(), "kubectl fleet enroll")
		}
	}
	site := func() string {
		msg := first.stored(wire.DeviceInfos, "pi-4")
		if msg == nil {
			return ""
		}
		info, err := wire.DecodeDeviceInfo(msg.Data)
		if err != nil {
			t.Fatal(err)
		}
		return info.Labels["site"]
	}

	first.run()
	first.eventually("the first describes the device", func() bool { return site() == "berlin" })
	second.run()
	second.eventually("the clone says that it stands by", page(&second, "this one stands by"))
	first.eventually("the first says that it goes on", page(first, "this one reports on the device"))
	first.eventually("the device is what the first says", func() bool { return site() == "berlin" })
}
