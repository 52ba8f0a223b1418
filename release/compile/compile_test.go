package compile

import (
	"io"
	"strings"
	"testing"
)

func TestError(t *testing.T) {
	b := Build{Root: "../..", Programs: []Program{"operator/cmd/none"}, Architecture: "amd64", Dir: t.TempDir(), Progress: io.Discard}
	if err := b.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "compiling none for linux/amd64") || !strings.Contains(err.Error(), "operator/cmd/none") {
		t.Errorf("got %v", err)
	}
}

// TestPackageLines: the error has what the compiler said, not what it was busy with.
func TestPackageLines(t *testing.T) {
	var p packageLines
	p.to = io.Discard
	for _, part := range []string{"k8s.io/a", "pi\nmain.go:3:1: unde", "fined: x\n", "github.com/nats-io/nats.go\n"} {
		if n, err := p.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if p.compiled != 2 || p.rest.String() != "main.go:3:1: undefined: x\n" {
		t.Errorf("%d packages, rest %q", p.compiled, p.rest.String())
	}
}
