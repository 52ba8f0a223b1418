package repository_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The limits of the house style. A file or function that hurts asks to be split.
const (
	maxFunctionLines = 80
	maxFileLines     = 500
	maxParameters    = 4
)

// TestHouseStyle holds every source file that is not generated against the
// limits, and every package against its need of a comment and a telling name.
func TestHouseStyle(t *testing.T) {
	documented := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name := entry.Name(); name != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "out") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasPrefix(entry.Name(), "zz_generated") {
			return nil
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		isTest := strings.HasSuffix(path, "_test.go")
		checkLimits(t, files, file, isTest)
		if folder := filepath.Dir(path); !isTest {
			documented[folder] = documented[folder] || file.Doc != nil
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for folder, has := range documented {
		if !has {
			t.Errorf("%s: the package has no comment that says what it is for", folder)
		}
		if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "misc"}, filepath.Base(folder)) {
			t.Errorf("%s: the name says nothing", folder)
		}
	}
}

func checkLimits(t *testing.T, files *token.FileSet, file *ast.File, isTest bool) {
	if lines := files.File(file.Pos()).LineCount(); lines > maxFileLines && !isTest {
		t.Errorf("%s has %d lines, at most %d", files.Position(file.Pos()).Filename, lines, maxFileLines)
	}
	for _, declaration := range file.Decls {
		function, isFunction := declaration.(*ast.FuncDecl)
		if !isFunction {
			continue
		}
		start, end := files.Position(function.Pos()), files.Position(function.End())
		if lines := end.Line - start.Line + 1; lines > maxFunctionLines && !isTest {
			t.Errorf("%s: %s has %d lines, at most %d", start, function.Name.Name, lines, maxFunctionLines)
		}
		if n := function.Type.Params.NumFields(); n > maxParameters && !isTest {
			t.Errorf("%s: %s has %d parameters, at most %d", start, function.Name.Name, n, maxParameters)
		}
	}
}
