package stories

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// documents are the Applications that docs/argocd.md tells people to apply.
type documents struct{ chart, base, workloads map[string]any }

var yamlBlock = regexp.MustCompile("(?s)\n```yaml\n(.*?)```\n")

// readDocuments reads the blocks of YAML in a document, which has these in this order.
func readDocuments(path string) (d documents, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return d, fmt.Errorf("reading what people apply: %w", err)
	}
	blocks := yamlBlock.FindAllSubmatch(text, -1)
	all := []*map[string]any{&d.chart, &d.base, &d.workloads}
	if len(blocks) != len(all) {
		return d, fmt.Errorf("%s has %d blocks of YAML, want %d Applications", path, len(blocks), len(all))
	}
	for n, block := range blocks {
		if err := yaml.UnmarshalStrict(block[1], all[n]); err != nil {
			return d, fmt.Errorf("reading an Application of %s: %w", path, err)
		}
	}
	return d, nil
}

// fromGit is the Application as a manifest that has its source in another repository.
// What is published as a chart by itself is a folder there.
func fromGit(application map[string]any, url string) (string, error) {
	changed := (&unstructured.Unstructured{Object: application}).DeepCopy().Object
	source, found, err := unstructured.NestedMap(changed, "spec", "source")
	if err != nil || !found {
		return "", fmt.Errorf("the Application has no source: %w", err)
	}
	source["repoURL"], source["targetRevision"] = url, "main"
	if chart, isChart := source["chart"].(string); isChart {
		delete(source, "chart")
		source["path"] = strings.Join([]string{"charts", chart}, "/")
	}
	if err := unstructured.SetNestedMap(changed, source, "spec", "source"); err != nil {
		return "", fmt.Errorf("giving the Application another source: %w", err)
	}
	manifest, err := json.Marshal(changed)
	return string(manifest), err
}
