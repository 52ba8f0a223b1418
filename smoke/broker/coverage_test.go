package broker_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	// documented is where people find which test tries which attack.
	documented = "../../docs/attacks.md"
	// lastAttack is the last number there.
	lastAttack = 33
	// theTable is how rows of the table are written there.
	theTable = "smoke/broker.TestDeviceAttacks"
)

var (
	attackRow = regexp.MustCompile(`(?m)^\| (A\d+) \|[^|]+\| (.+) \|$`)
	proofs    = regexp.MustCompile("`([-a-z/0-9]+)\\.((?:Test|Fuzz)\\w+)(?:/([^`]+))?`")
)

// TestAttacksAreCovered holds the documentation of attacks against the tests: each
// attack is there once, each test that it names exists, with the case that it names,
// and the rows of the table are those that the documentation says are.
func TestAttacksAreCovered(t *testing.T) {
	text, err := os.ReadFile(documented)
	if err != nil {
		t.Fatal(err)
	}
	inTable := map[string]bool{}
	for name := range attacks() {
		number, _, _ := strings.Cut(name, " ")
		inTable[number] = true
	}
	packages := map[string]testNames{}
	var numbers []string
	for _, row := range attackRow.FindAllStringSubmatch(string(text), -1) {
		number, proof := row[1], row[2]
		numbers = append(numbers, number)
		named := proofs.FindAllStringSubmatch(proof, -1)
		if none := strings.HasPrefix(proof, "none: "); none != (len(named) == 0) || strings.Count(proof, "`") != 2*len(named) {
			t.Errorf("%s: %q names no tests as package.TestName, nor says why there is none", number, proof)
		}
		if says := strings.Contains(proof, "`"+theTable+"`"); says != inTable[number] {
			t.Errorf("%s: in the table = %t, and %s says %t", number, inTable[number], documented, says)
		}
		for _, test := range named {
			folder, name, part := test[1], test[2], test[3]
			if packages[folder] == nil {
				packages[folder] = readTests(t, folder)
			}
			if !packages[folder][name] || part != "" && !packages[folder][strconv.Quote(part)] {
				t.Errorf("%s: there is no %s in %s, or no case %q", number, name, folder, part)
			}
		}
	}
	var want []string
	for i := range lastAttack {
		want = append(want, fmt.Sprintf("A%d", i+1))
	}
	if !slices.Equal(numbers, want) {
		t.Errorf("%s has %v, want A1 to A%d", documented, numbers, lastAttack)
	}
}

// testNames are functions of a package's tests, and the texts in them as Go writes
// them, which is where cases are.
type testNames map[string]bool

func readTests(t *testing.T, folder string) testNames {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", folder, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the tests of %s: %v, %v", folder, files, err)
	}
	names := testNames{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				names[n.Name.Name] = n.Recv == nil
			case *ast.BasicLit:
				if n.Kind == token.STRING {
					names[n.Value] = true
				}
			}
			return true
		})
	}
	return names
}
