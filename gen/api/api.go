// Package api generates what follows from the API types: their deep copies and
// the CustomResourceDefinitions, with controller-tools as a library. It reads Go
// source and returns files; it never writes one.
package api

import (
	"encoding/json"
	"fmt"
	"io"
	"path"

	"golang.org/x/tools/go/packages"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/controller-tools/pkg/crd"
	"sigs.k8s.io/controller-tools/pkg/deepcopy"
	"sigs.k8s.io/controller-tools/pkg/genall"
	"sigs.k8s.io/controller-tools/pkg/loader"
	"sigs.k8s.io/controller-tools/pkg/markers"
	"sigs.k8s.io/yaml"

	"github.com/nationtech/harmony-fleet/apis/crds/fingerprint"
	"github.com/nationtech/harmony-fleet/gen/tree"
	"github.com/nationtech/harmony-fleet/release/version"
)

const module = "github.com/nationtech/harmony-fleet/"

// annotationSchemaHash is v1alpha1.AnnotationSchemaHash. The types' package does
// not compile before its deep copies are generated, so the generator must not
// import it; a test compares the two.
const annotationSchemaHash = "fleet.nationtech.io/schema-hash"

// annotationVersion is v1alpha1.AnnotationVersion, for the same reason.
const annotationVersion = "fleet.nationtech.io/version"

// Files generates everything that follows from the API types of the module whose
// root is the folder root.
func Files(root string) (tree.Tree, error) {
	files := tree.Tree{}
	if err := deepCopies(root, files); err != nil {
		return nil, err
	}
	crds, err := definitions(root)
	if err != nil {
		return nil, err
	}
	for _, definition := range crds {
		content, err := render(definition)
		if err != nil {
			return nil, err
		}
		files["apis/crds/"+definition.Name+".yaml"] = content
	}
	return files, nil
}

// deepCopies adds the zz_generated.deepcopy.go of each API package.
func deepCopies(root string, files tree.Tree) error {
	var object genall.Generator = deepcopy.Generator{}
	generators := genall.Generators{&object}
	run, err := generators.ForRootsWithConfig(packagesConfig(root), "./apis/score", "./apis/fleet/v1alpha1")
	if err != nil {
		return fmt.Errorf("loading the API types: %w", err)
	}
	run.OutputRules = genall.OutputRules{Default: intoTree{files}}
	if failed := run.Run(); failed {
		return fmt.Errorf("generating deep copies: see the errors above")
	}
	return nil
}

// intoTree is an output rule that keeps files in memory.
type intoTree struct{ files tree.Tree }

// Open implements genall.OutputRule.
func (o intoTree) Open(pkg *loader.Package, name string) (io.WriteCloser, error) {
	if pkg == nil {
		return nil, fmt.Errorf("file %s belongs to no package", name)
	}
	return &treeFile{files: o.files, path: path.Join(pkg.PkgPath[len(module):], name)}, nil
}

type treeFile struct {
	files tree.Tree
	path  string
	data  []byte
}

func (f *treeFile) Write(p []byte) (int, error) { f.data = append(f.data, p...); return len(p), nil }

func (f *treeFile) Close() error { f.files[f.path] = f.data; return nil }

// definitions parses the API types into CustomResourceDefinitions, in order of
// their names.
func definitions(root string) ([]apiextensionsv1.CustomResourceDefinition, error) {
	pkgs, err := loader.LoadRootsWithConfig(packagesConfig(root), "./apis/fleet/v1alpha1")
	if err != nil {
		return nil, fmt.Errorf("loading the API types: %w", err)
	}
	registry := &markers.Registry{}
	if err := (crd.Generator{}).RegisterMarkers(registry); err != nil {
		return nil, fmt.Errorf("registering markers: %w", err)
	}
	parser := &crd.Parser{Collector: &markers.Collector{Registry: registry}, Checker: &loader.TypeChecker{}}
	crd.AddKnownTypes(parser)
	for _, pkg := range pkgs {
		parser.NeedPackage(pkg)
	}
	var out []apiextensionsv1.CustomResourceDefinition
	for _, kind := range crd.FindKubeKinds(parser, crd.FindMetav1(pkgs)) {
		parser.NeedCRDFor(kind, nil)
		definition := parser.CustomResourceDefinitions[kind]
		crd.FixTopLevelMetadata(definition)
		for i := range definition.Spec.Versions {
			bound(definition.Spec.Versions[i].Schema.OpenAPIV3Schema)
		}
		out = append(out, definition)
	}
	// Type errors are those of missing deep copies, which come from here.
	if loader.PrintErrors(pkgs, packages.TypeError) {
		return nil, fmt.Errorf("parsing the API types: see the errors above")
	}
	return out, nil
}

// render prints a definition with the release and the hash of its schema, without the fields
// that the API server fills in.
func render(definition apiextensionsv1.CustomResourceDefinition) ([]byte, error) {
	hash, err := fingerprint.Of(definition.Spec)
	if err != nil {
		return nil, err
	}
	if definition.Annotations == nil {
		definition.Annotations = map[string]string{}
	}
	definition.Annotations[annotationSchemaHash] = hash
	definition.Annotations[annotationVersion] = version.Tag
	data, err := json.Marshal(definition)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", definition.Name, err)
	}
	var plain map[string]any
	if err := json.Unmarshal(data, &plain); err != nil {
		return nil, fmt.Errorf("decoding %s: %w", definition.Name, err)
	}
	delete(plain, "status")
	delete(plain["metadata"].(map[string]any), "creationTimestamp")
	out, err := yaml.Marshal(plain)
	if err != nil {
		return nil, fmt.Errorf("printing %s: %w", definition.Name, err)
	}
	return append([]byte("# Generated by `go run ./gen` from apis/fleet/v1alpha1; do not edit.\n"), out...), nil
}

// packagesConfig loads packages from the module at root.
func packagesConfig(root string) *packages.Config { return &packages.Config{Dir: root} }
