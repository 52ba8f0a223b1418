// Package prove renders the chart with Helm's library, so that tests can compare
// it with the builders. Only test binaries link it: the generator itself carries no
// Helm.
package prove

import (
	"fmt"
	"path"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"

	generated "github.com/nationtech/harmony-fleet/gen/chart"
	"github.com/nationtech/harmony-fleet/gen/tree"
)

// Chart is the chart among generated files.
func Chart(files tree.Tree) (*chart.Chart, error) {
	var buffered []*loader.BufferedFile
	for _, name := range files.Paths() {
		if inside, found := strings.CutPrefix(name, generated.Dir+"/"); found {
			buffered = append(buffered, &loader.BufferedFile{Name: inside, Data: files[name]})
		}
	}
	c, err := loader.LoadFiles(buffered)
	if err != nil {
		return nil, fmt.Errorf("loading the chart: %w", err)
	}
	return c, nil
}

// Release is which installation to render.
type Release struct{ Name, Namespace string }

// Join lays the chart's own values below those of a file, as Helm does before it
// renders.
func Join(c *chart.Chart, file []byte, r Release) (chartutil.Values, error) {
	chosen, err := chartutil.ReadValues(file)
	if err != nil {
		return nil, fmt.Errorf("reading the values: %w", err)
	}
	options := chartutil.ReleaseOptions{Name: r.Name, Namespace: r.Namespace, IsInstall: true, Revision: 1}
	const skipSchema = true // Helm would compile it each time
	top, err := chartutil.ToRenderValuesWithSchemaValidation(c, chosen, options, nil, skipSchema)
	if err != nil {
		return nil, fmt.Errorf("joining the values: %w", err)
	}
	return top, nil
}

// Render renders the templates, by their names.
func Render(c *chart.Chart, top chartutil.Values) (map[string]string, error) {
	rendered, err := engine.Render(c, top)
	if err != nil {
		return nil, fmt.Errorf("rendering: %w", err)
	}
	files := map[string]string{}
	for name, text := range rendered {
		files[path.Base(name)] = text
	}
	return files, nil
}

// Check holds values, joined with the chart's own, against the schema.
func Check(c *chart.Chart, file []byte) error {
	chosen, err := chartutil.ReadValues(file)
	if err != nil {
		return fmt.Errorf("reading the values: %w", err)
	}
	joined, err := chartutil.CoalesceValues(c, chosen)
	if err != nil {
		return fmt.Errorf("joining the values: %w", err)
	}
	return chartutil.ValidateAgainstSchema(c, joined)
}
