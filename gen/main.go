// Command gen writes every generated file of the repository, or with -check
// tells what has drifted. It imports the packages that it generates from;
// nothing imports it.
package main

import (
	"flag"
	"fmt"
	"maps"
	"os"

	"github.com/nationtech/harmony-fleet/gen/api"
	"github.com/nationtech/harmony-fleet/gen/chart"
	"github.com/nationtech/harmony-fleet/gen/kustomize"
	"github.com/nationtech/harmony-fleet/gen/manifest"
	"github.com/nationtech/harmony-fleet/gen/tree"
)

func main() {
	check := flag.Bool("check", false, "compare with the disk and change nothing; exit code 1 means drift")
	root := flag.String("root", ".", "root of the repository")
	flag.Parse()
	if err := run(*root, *check); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(root string, check bool) error {
	files, err := generate(root)
	if err != nil {
		return err
	}
	if !check {
		written, err := files.Write(root)
		for _, path := range written {
			fmt.Println("wrote", path)
		}
		return err
	}
	drift, err := files.Drift(root)
	if err != nil {
		return err
	}
	for _, d := range drift {
		fmt.Println(d)
	}
	if len(drift) > 0 {
		return fmt.Errorf("%d generated files have drifted; run `make generate`", len(drift))
	}
	return nil
}

// generate makes every generated file of the module whose root is the folder root.
func generate(root string) (tree.Tree, error) {
	files := tree.Tree{}
	for _, part := range []func(string) (tree.Tree, error){api.Files, documents, chart.Files, kustomize.Files} {
		made, err := part(root)
		if err != nil {
			return nil, err
		}
		maps.Copy(files, made)
	}
	return files, nil
}

// documents read no source: they follow from what is compiled in.
func documents(string) (tree.Tree, error) { return manifest.Files() }
