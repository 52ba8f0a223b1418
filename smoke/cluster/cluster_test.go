package cluster

import (
	"archive/tar"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"sigs.k8s.io/yaml"
)

func TestPick(t *testing.T) {
	tests := map[string]struct {
		reason     string
		kubeconfig string
		programs   []string
		want       string
		why        string
	}{
		"kubeconfig":  {"who names a cluster means it, whatever else is there", "/there", []string{"docker", "kind"}, "existing", "/there"},
		"kind":        {"kind comes before k3d", "", []string{"docker", "kind", "k3d"}, "kind", "docker and kind"},
		"k3d":         {"k3d does as well", "", []string{"docker", "k3d"}, "k3d", "docker and k3d"},
		"no docker":   {"kind alone makes no cluster", "", []string{"kind", "k3d"}, "source", "no docker"},
		"docker only": {"neither does docker", "", []string{"docker"}, "source", "no kind, no k3d"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := Pick(tc.kubeconfig, func(program string) (string, error) {
				if slices.Contains(tc.programs, program) {
					return "/bin/" + program, nil
				}
				return "", errors.New("not found")
			})
			if got.Provider != tc.want || !strings.Contains(got.Why, tc.why) {
				t.Errorf("%s: %+v, want %s because of %q", tc.reason, got, tc.want, tc.why)
			}
		})
	}
}

func TestProviderByName(t *testing.T) {
	for _, name := range Providers {
		if _, err := newProvider(Options{Provider: name, Kubeconfig: "/there"}); err != nil {
			t.Errorf("%s is listed: %v", name, err)
		}
	}
	if _, err := newProvider(Options{Provider: "existing"}); err == nil || !strings.Contains(err.Error(), "KUBECONFIG") {
		t.Errorf("without a kubeconfig: %v", err)
	}
	if _, err := newProvider(Options{Provider: "minikube"}); err == nil || !strings.Contains(err.Error(), "k3d") {
		t.Errorf("an unknown provider must have the error name the known ones: %v", err)
	}
}

// Clusters get in the way neither of each other nor of an address of the host.
func TestNetwork(t *testing.T) {
	var plans []network
	for number := range numbers {
		n := newNetwork(number)
		parts := []netip.Prefix{n.link, n.pods, n.services}
		for i, part := range parts {
			if !n.all.Contains(part.Addr()) || part.Bits() < n.all.Bits() {
				t.Errorf("%s lies outside %s", part, n.all)
			}
			if slices.ContainsFunc(parts[:i], part.Overlaps) {
				t.Errorf("%s overlaps another part of %+v", part, n)
			}
		}
		if !n.link.Contains(n.host) || !n.link.Contains(n.node) || !n.services.Contains(n.dns) || n.host == n.node {
			t.Errorf("addresses outside their parts: %+v", n)
		}
		if slices.ContainsFunc(plans, func(other network) bool { return other.all.Overlaps(n.all) }) {
			t.Errorf("cluster %d overlaps another", number)
		}
		if len(n.device()) > 15 {
			t.Errorf("the kernel takes 15 characters for an interface, %q has more", n.device())
		}
		plans = append(plans, n)
	}
	taken := &net.IPNet{IP: net.IPv4(10, 65, 9, 1), Mask: net.CIDRMask(24, 32)}
	if free := plans[1].free([]net.Addr{taken}); free {
		t.Errorf("%s is free although the host has %s", plans[1].all, taken)
	}
	if free := plans[2].free([]net.Addr{taken}); !free {
		t.Errorf("%s is not free because of %s", plans[2].all, taken)
	}
}

// Each file is one that its reader can parse, with nothing left to fill in.
func TestConfigure(t *testing.T) {
	s := &source{dir: t.TempDir(), network: newNetwork(7), programs: programs{runc: "/sbin/runc", cni: "/cni"}}
	if err := s.configure(); err != nil {
		t.Fatal(err)
	}
	for name := range files {
		content, err := os.ReadFile(s.path(name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(content), "<no value>") || strings.Contains(string(content), "{{") {
			t.Errorf("%s has blanks:\n%s", name, content)
		}
		var parsed map[string]any
		switch filepath.Ext(name) {
		case ".toml":
			err = toml.Unmarshal(content, &parsed)
		case ".yaml", ".conflist":
			err = yaml.UnmarshalStrict(content, &parsed)
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, content)
		}
	}
}

func TestArchived(t *testing.T) {
	folder := t.TempDir()
	if err := os.MkdirAll(filepath.Join(folder, "blobs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "blobs", "one"), []byte("layer"), 0o600); err != nil {
		t.Fatal(err)
	}
	archive, remove, err := archived(folder)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	found := map[string]string{}
	for r := tar.NewReader(file); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		found[header.Name] = string(content)
	}
	if found["blobs/one"] != "layer" {
		t.Errorf("the archive holds %v", found)
	}
	if same, _, err := archived(archive); same != archive || err != nil {
		t.Errorf("an archive is used as it is: %q, %v", same, err)
	}
	remove()
	if _, _, err := archived(archive); err == nil {
		t.Error("the archive of the folder is still there after remove, or a missing image is no error")
	}
}
