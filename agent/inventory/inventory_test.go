package inventory_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/agent/inventory"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

func TestCollect(t *testing.T) {
	cases := map[string]struct {
		reason string
		files  map[string]string
		want   wire.Inventory
	}{
		"X86": {
			reason: "two processors of one model, and an os-release in quotes",
			files: map[string]string{
				"etc/os-release":            "NAME=\"Debian GNU/Linux\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
				"proc/cpuinfo":              "processor\t: 0\nmodel name\t: Intel(R) N100\n\nprocessor\t: 1\nmodel name\t: Intel(R) N100\n",
				"proc/meminfo":              "MemTotal:        8041152 kB\nMemFree:  1 kB\n",
				"proc/sys/kernel/hostname":  "kiosk-4\n",
				"proc/sys/kernel/osrelease": "6.1.0-25-amd64\n",
			},
			want: wire.Inventory{
				Hostname: "kiosk-4", OperatingSystem: "Debian GNU/Linux 12 (bookworm)", KernelVersion: "6.1.0-25-amd64",
				CPUModel: "Intel(R) N100", CPUCount: 2, MemoryBytes: 8041152 * 1024,
			},
		},
		"Arm": {
			reason: "an arm board names itself, once, and os-release may be in /usr/lib alone",
			files: map[string]string{
				"usr/lib/os-release": "NAME=Fedora\n",
				"proc/cpuinfo":       "processor\t: 0\nBogoMIPS\t: 108.00\n\nprocessor\t: 1\n\nModel\t\t: Raspberry Pi 4 Model B Rev 1.5\n",
				"proc/meminfo":       "MemTotal: many kB\n",
			},
			want: wire.Inventory{OperatingSystem: "Fedora", CPUModel: "Raspberry Pi 4 Model B Rev 1.5", CPUCount: 2},
		},
		"Nothing": {reason: "what cannot be read stays empty"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, content := range tc.files {
				path := filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			tc.want.Architecture = runtime.GOARCH
			if diff := cmp.Diff(tc.want, inventory.Collect(root)); diff != "" {
				t.Errorf("%s\nCollect(): -want +got\n%s", tc.reason, diff)
			}
		})
	}
}

func TestCollectHere(t *testing.T) {
	got := inventory.Collect("/")
	if got.Hostname == "" || got.KernelVersion == "" || got.CPUCount < 1 || got.MemoryBytes < 1<<20 {
		t.Errorf("Collect(/) has gaps: %+v", got)
	}
}
