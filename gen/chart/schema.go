package chart

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/controller-tools/pkg/crd"
	"sigs.k8s.io/controller-tools/pkg/loader"
	"sigs.k8s.io/controller-tools/pkg/markers"

	"github.com/nationtech/harmony-fleet/gen/install"
)

// valuesPackage holds the values' types.
const valuesPackage = "./gen/values"

// readSchema parses the types of the values in the module whose root is the folder
// root. Comments and markers become descriptions and bounds.
func readSchema(root string) (*apiextensionsv1.JSONSchemaProps, error) {
	pkgs, err := loader.LoadRootsWithConfig(&packages.Config{Dir: root}, valuesPackage)
	if err != nil {
		return nil, fmt.Errorf("loading the types of the values: %w", err)
	}
	registry := &markers.Registry{}
	if err := (crd.Generator{}).RegisterMarkers(registry); err != nil {
		return nil, fmt.Errorf("registering markers: %w", err)
	}
	parser := &crd.Parser{Collector: &markers.Collector{Registry: registry}, Checker: &loader.TypeChecker{}}
	crd.AddKnownTypes(parser)
	values := crd.TypeIdent{Package: pkgs[0], Name: "Values"}
	parser.NeedPackage(pkgs[0])
	parser.NeedFlattenedSchemaFor(values)
	// The parser goes on after an error, with a schema that takes anything.
	var errs []error
	for _, pkg := range pkgs {
		for _, e := range pkg.Errors {
			errs = append(errs, e)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("parsing the types of the values: %w", err)
	}
	schema := parser.FlattenedSchemata[values]
	return &schema, nil
}

// enums lists the values of each leaf that has few, by its path.
func enums(schema *apiextensionsv1.JSONSchemaProps, path []string, into map[string][]string) {
	for _, value := range schema.Enum {
		var text string
		if json.Unmarshal(value.Raw, &text) == nil { // numbers are compared, not listed
			into[strings.Join(path, ".")] = append(into[strings.Join(path, ".")], text)
		}
	}
	for name, field := range schema.Properties {
		enums(&field, append(path[:len(path):len(path)], name), into)
	}
}

// jsonSchema is values.schema.json: what Helm's validator, of draft 7, understands.
func jsonSchema(schema *apiextensionsv1.JSONSchemaProps, all []row) ([]byte, error) {
	data, err := json.Marshal(schema)
	if err != nil {
		return nil, fmt.Errorf("encoding the schema: %w", err)
	}
	var plain map[string]any
	if err := json.Unmarshal(data, &plain); err != nil {
		return nil, fmt.Errorf("decoding the schema: %w", err)
	}
	plain["$schema"] = "http://json-schema.org/draft-07/schema#"
	plain["title"] = "Values of " + product
	validate(plain, 0)
	for _, r := range all {
		if !r.group {
			find(plain, r.path)["default"] = r.fallback
		}
	}
	contradiction(find(plain, []string{"image"}))
	// A chart that is part of another is given these two.
	properties := plain["properties"].(map[string]any)
	properties["global"] = map[string]any{"type": "object"}
	properties["enabled"] = map[string]any{"type": "boolean"}
	out, err := json.MarshalIndent(plain, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the schema: %w", err)
	}
	return append(out, '\n'), nil
}

// contradiction has a tag refused that a digest would make nothing of.
func contradiction(image map[string]any) {
	var given []any
	digests := find(image, []string{"digests"})["properties"].(map[string]any)
	for _, digest := range slices.Sorted(maps.Keys(digests)) {
		given = append(given, map[string]any{"required": []any{digest}, "properties": map[string]any{digest: map[string]any{"minLength": 1}}})
	}
	image["if"] = map[string]any{"properties": map[string]any{"digests": map[string]any{"anyOf": given}}}
	image["then"] = map[string]any{"properties": map[string]any{"tag": map[string]any{"enum": []any{"", install.Version}}}}
}

// find is the schema of a value.
func find(schema map[string]any, path []string) map[string]any {
	for _, name := range path {
		schema = schema["properties"].(map[string]any)[name].(map[string]any)
	}
	return schema
}

// describedDepth is how deep descriptions are kept: those of our own fields. What
// Kubernetes says about its types would be most of the file.
const describedDepth = 4

// validate turns a schema of Kubernetes into one of JSON.
func validate(schema map[string]any, depth int) {
	if depth > describedDepth {
		delete(schema, "description")
	}
	for key := range schema {
		if strings.HasPrefix(key, "x-kubernetes-") {
			if key == "x-kubernetes-int-or-string" {
				// Who writes `cpu: 0.5` means a quantity.
				schema["anyOf"] = []any{map[string]any{"type": "number"}, map[string]any{"type": "string"}}
			}
			delete(schema, key)
		}
	}
	if schema["nullable"] == true {
		schema["type"] = []any{schema["type"], "null"}
		delete(schema, "nullable")
	}
	bounds(schema)
	properties, isObject := schema["properties"].(map[string]any)
	if isObject {
		schema["additionalProperties"] = false
		for _, field := range properties {
			validate(field.(map[string]any), depth+1)
		}
	}
	for _, key := range []string{"items", "additionalProperties"} {
		if inner, has := schema[key].(map[string]any); has {
			validate(inner, depth+1)
		}
	}
}

// bounds writes out what a format means, which validators leave alone.
func bounds(schema map[string]any) {
	low, high := 0.0, 0.0
	switch schema["format"] {
	case "int32":
		low, high = math.MinInt32, math.MaxInt32
	case "int64":
		// Beyond, a number from a file is rounded.
		low, high = -(1<<53 - 1), 1<<53-1
	default:
		return
	}
	delete(schema, "format")
	if _, has := schema["minimum"]; !has {
		schema["minimum"] = low
	}
	if _, has := schema["maximum"]; !has {
		schema["maximum"] = high
	}
}
