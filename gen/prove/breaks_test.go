package prove_test

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	generated "github.com/nationtech/harmony-fleet/gen/chart"
	"github.com/nationtech/harmony-fleet/gen/prove"
	"github.com/nationtech/harmony-fleet/gen/tree"
)

// breaks are faults that a template could have: a pattern, and what it becomes. One
// of so many places is broken, as all of them take minutes.
var breaks = []struct {
	name  string
	every int
	what  *regexp.Regexp
	with  string
}{
	{"a condition that always holds", 9, regexp.MustCompile(`\{\{- (if|with) [^}]*\}\}`), "{{- $1 (list 1) }}"},
	{"a condition that never holds", 9, regexp.MustCompile(`\{\{- (if|with|range) [^}]*\}\}`), "{{- $1 (list) }}"},
	{"another value", 5, regexp.MustCompile(`\.Values\.[a-zA-Z.]+ \| quote`), ".Values.image.registry | quote"},
	{"another number", 1, regexp.MustCompile(`: \{\{ int64 \.Values\.[a-zA-Z.]+`), ": {{ int64 .Values.callout.config.workers"},
	{"the name of one release", 20, regexp.MustCompile(`\.Release\.Name`), `"harmony-fleet"`},
	{"the namespace of one release", 9, regexp.MustCompile(`\.Release\.Namespace`), `"fleet-system"`},
	{"no quotes", 1, regexp.MustCompile(`(\{\{ \.Values\.[a-zA-Z.]*(image|issuer\.name|audience|configMap|address|mount|nats\.url) )\| quote`), "$1"},
}

// noDifference are conditions on fields in which empty, null and absent are the same.
var noDifference = regexp.MustCompile(`caFile|rolesClaim|devicesURL|className`)

// TestBreaksAreSeen breaks templates in one place at a time. A proof that passes
// what is broken proves nothing.
func TestBreaksAreSeen(t *testing.T) {
	t.Parallel()
	all, err := files()
	if err != nil {
		t.Fatal(err)
	}
	whole := newBench(t)
	attempts := attempts()
	for _, b := range breaks {
		broken, seen := 0, 0
		for _, path := range all.Paths() {
			if !strings.HasPrefix(path, generated.Dir+"/templates/") || strings.HasSuffix(path, "NOTES.txt") || strings.HasSuffix(path, definitions) {
				continue
			}
			text := string(all[path])
			for _, at := range b.what.FindAllStringIndex(text, -1) {
				if broken++; broken%b.every != 0 {
					continue
				}
				changed := text[:at[0]] + b.what.ReplaceAllString(text[at[0]:at[1]], b.with) + text[at[1]:]
				if changed == text || noDifference.MatchString(text[at[0]:at[1]]) {
					continue
				}
				if !whole.sees(all, path, changed, nearest(attempts, text[at[0]:at[1]])) {
					t.Errorf("%s: %s for %s is not seen", path, b.name, text[at[0]:at[1]])
				}
				seen++
			}
		}
		t.Logf("%s: %d of %d places tried", b.name, seen, broken)
		if seen == 0 {
			t.Errorf("%s: nothing was broken", b.name)
		}
	}
}

// nearest puts the attempts first that are about a value that the text names.
func nearest(all []attempt, text string) []attempt {
	others := func(a attempt) bool { return a.about == "" || !strings.Contains(text, ".Values."+a.about+" ") }
	about := slices.DeleteFunc(slices.Clone(all), others)
	return slices.Concat(about, all)
}

// sees tells whether any of the attempts fails with one template changed.
func (b *bench) sees(all tree.Tree, path, changed string, attempts []attempt) bool {
	b.Helper()
	all = maps.Clone(all)
	all[path] = []byte(changed)
	delete(all, generated.Dir+"/templates/"+definitions)
	c, err := prove.Chart(all)
	if err != nil {
		b.Fatal(err)
	}
	broken := &bench{T: b.T, chart: c, schema: b.schema}
	for i, a := range attempts {
		if _, err := broken.try(a.trial, releases[i%len(releases)]); err != nil {
			return true
		}
	}
	return false
}

// attempt is a trial, and the value that it is about.
type attempt struct {
	about string
	trial trial
}

// attempts are the trials of the other tests, the ones that see most first.
func attempts() []attempt {
	all := []attempt{{"", trial{}}, {"", trial{}}, {"", open()}, {"", open()}}
	choices := gates()
	for _, path := range slices.Sorted(maps.Keys(choices)) {
		for _, value := range choices[path] {
			all = append(all, attempt{path, trial{path: value}}, attempt{path, open().with(trial{path: value})})
		}
	}
	for _, base := range bases()[1:] {
		for _, l := range leaves() {
			for _, value := range l.others("1e3") {
				all = append(all, attempt{l.path, base.with(trial{l.path: value})})
			}
		}
	}
	return all
}
