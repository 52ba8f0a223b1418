package packages_test

import (
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/nationtech/harmony-fleet/smoke/document"
)

// address is that of the repository in the document.
const address = "https://packages.example.com/fleet"

// TestDocs does as docs/device.md says on a device that is a Debian: installs the package
// from the repository, and from a file. Of what it says to a Fedora the files are there.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/device.md")
	must(t, err)
	blocks := document.Blocks(string(text))
	s := open(t)
	d := newDevice(t)
	must(t, d.root.Write("etc/apt/apt.conf.d/answers", "APT::Get::Assume-Yes \"true\";\n"))
	d.does("apt-get --quiet update && apt-get --quiet --no-install-recommends install curl")
	install := blocks[""]
	if len(install) != 2 || len(blocks["Without the internet"]) == 0 {
		t.Fatalf("the document has the blocks %q", blocks)
	}
	d.does("set -e\n" + strings.ReplaceAll(install[0], address, s.Trust.URL))
	d.has(true, "usr/bin/fleet-agent")

	d.does(apt + "purge fleet-agent")
	must(t, exec.Command("cp", s.find(t, "fleet-agent_0.0.9-1", "amd64.deb"), d.root.Path("tmp")).Run())
	file := strings.NewReplacer("VERSION", "0.0.9-1", "ARCHITECTURE", "amd64").Replace(blocks["Without the internet"][0])
	d.does("set -e\ncd /tmp\n" + file)
	d.has(true, "usr/bin/fleet-agent")

	for _, url := range regexp.MustCompile(address+`/\S+`).FindAllString(install[1], -1) {
		response, err := http.Get(strings.Replace(url, address, s.Trust.URL, 1))
		must(t, err)
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", url, response.Status)
		}
	}
}
