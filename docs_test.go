package repository_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// verb is what a value of a format string stands in place of.
var verb = regexp.MustCompile(`%[-+# 0-9.]*[a-z]`)

// quotes are the texts of the first column of a table, where … stands for a value.
var quotes = regexp.MustCompile("`([^`]+)`")

// TestTroubleshooting: what the table of docs/device.md quotes is said, by the agent or,
// as tests of packages have heard it, by apt and dnf.
func TestTroubleshooting(t *testing.T) {
	said := slices.Concat(literals(t, "agent", false), literals(t, "apis/config", false), literals(t, "smoke/packages", true))
	text, err := os.ReadFile("docs/device.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n## When it does not work\n")
	table, _, _ = strings.Cut(table, "\n## ")
	rows := 0
	for line := range strings.Lines(table) {
		columns := strings.Split(line, "|")
		if len(columns) < 4 {
			continue
		}
		for _, quote := range quotes.FindAllStringSubmatch(columns[1], -1) {
			rows++
			if wanted := strings.Trim(quote[1], "… "); !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, wanted) }) {
				t.Errorf("nobody says %q", quote[1])
			}
		}
	}
	if rows < 10 {
		t.Errorf("the table has %d texts", rows)
	}
}

// literals are the texts in the source below a folder, of tests or not, with … for each
// value.
func literals(t *testing.T, folder string, tests bool) (all []string) {
	t.Helper()
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") != tests {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if literal, is := n.(*ast.BasicLit); is && literal.Kind == token.STRING {
				if text, err := strconv.Unquote(literal.Value); err == nil {
					all = append(all, verb.ReplaceAllString(text, "…"))
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
