package cluster

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
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

// Who comes up at the same time gets another network.
func TestTakeNetwork(t *testing.T) {
	n, err := takeNetwork()
	if err != nil {
		t.Fatal(err)
	}
	second := newNetwork(n.number)
	if err := second.take(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("the network is taken a second time: %v", err)
	}
	if err := n.disconnect(); err != nil {
		t.Fatal(err)
	}
	if err := second.take(); err != nil {
		t.Fatalf("the network was not given back: %v", err)
	}
	if err := second.disconnect(); err != nil {
		t.Fatal(err)
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

// The archive has what the layout has, and the image's name in its index.
func TestArchiveLayout(t *testing.T) {
	folder := t.TempDir()
	image, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	written, err := layout.Write(folder, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := archiveLayout(io.Discard, folder, "example.org/app:v1"); err == nil || !strings.Contains(err.Error(), "0 images") {
		t.Errorf("a layout without an image: %v", err)
	}
	tag := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "v1"})
	if err := written.AppendImage(image, tag); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := archiveLayout(&archive, folder, "example.org/app:v1"); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(&archive); ; {
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
		files[header.Name] = string(content)
	}
	if !strings.Contains(files["index.json"], `"example.org/app:v1"`) {
		t.Errorf("the index lacks the name: %s", files["index.json"])
	}
	delete(files, "index.json")
	if len(files) != 5 { // the layout's version, manifest, configuration and two layers
		t.Errorf("the archive has %v", slices.Collect(maps.Keys(files)))
	}
	for name, content := range files {
		if original, err := os.ReadFile(filepath.Join(folder, name)); err != nil || string(original) != content {
			t.Errorf("%s differs from the layout's, %v", name, err)
		}
	}
}
