package chart

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/nationtech/harmony-fleet/gen/install"
)

const nackModule = "github.com/nats-io/nack"

// nackFile is in the folder whose definitions Helm installs before everything
// else: a chart whose templates have a resource of a kind that its templates
// define cannot be installed at once.
const nackFile = Dir + "/crds/nack.yaml"

// NACKDefinitions are those of NACK, from the version in the go.mod of the module
// whose root is the folder root.
func NACKDefinitions(root string) ([]byte, error) {
	list := exec.Command("go", "list", "-m", "-f", "{{.Version}} {{.Dir}}", nackModule)
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("finding the module %s: %w", nackModule, err)
	}
	version, dir, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	data, err := os.ReadFile(filepath.Join(dir, "deploy", "crds.yml"))
	if err != nil {
		return nil, fmt.Errorf("reading the definitions of NACK: %w", err)
	}
	var all bytes.Buffer
	fmt.Fprintf(&all, "# From %s %s (Apache License 2.0) by `go run ./gen`; do not edit.\n", nackModule, version)
	for documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data))); ; {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return all.Bytes(), nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the definitions of NACK: %w", err)
		}
		if err := addDefinition(&all, document); err != nil {
			return nil, fmt.Errorf("a definition of NACK: %w", err)
		}
	}
}

// addDefinition prints a definition as the API server has it, unless it is of a
// kind that nothing here watches.
func addDefinition(all *bytes.Buffer, document []byte) error {
	var definition apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(document, &definition); err != nil {
		return err
	}
	if definition.Name == "" || definition.Spec.Names.Kind == "StreamTemplate" {
		return nil
	}
	printed, err := yaml.Marshal(map[string]any{
		"apiVersion": definition.APIVersion, "kind": definition.Kind,
		"metadata": map[string]any{"name": definition.Name, "annotations": install.Keep()}, "spec": definition.Spec,
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(all, "---\n%s", printed)
	return nil
}
