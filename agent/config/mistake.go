package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

// unknown says of a key that no field has what was meant by it.
func unknown(key []string) string {
	known := sections()
	name, field := "", key[len(key)-1]
	if len(key) > 1 {
		name = key[0]
	}
	what := fmt.Sprintf("unknown key %q", strings.Join(key, "."))
	if homes := homesOf(field, known); len(homes) > 0 && !slices.Contains(homes, name) {
		return fmt.Sprintf("%s: %s belongs into [%s]", what, field, strings.Join(homes, "] or ["))
	}
	if len(key) == 1 {
		name = field // most often a section
	}
	fields, isSection := known[name]
	switch {
	case !isSection:
		if near := nearest(name, slices.Sorted(maps.Keys(known))); near != "" {
			return fmt.Sprintf("%s: did you mean [%s]?", what, near)
		}
		return fmt.Sprintf("%s: the sections are [%s]", what, strings.Join(slices.Sorted(maps.Keys(known)), "], ["))
	case len(key) == 2:
		if near := nearest(field, fields); near != "" {
			return fmt.Sprintf("%s: did you mean %s?", what, near)
		}
	}
	return fmt.Sprintf("%s: [%s] has %s", what, name, strings.Join(fields, ", "))
}

// sections of the file, each with its keys; that of labels takes any and has none.
func sections() map[string][]string {
	all := map[string][]string{}
	for section := range reflect.TypeFor[v1alpha1.AgentConfig]().Fields() {
		var keys []string
		if section.Type.Kind() == reflect.Struct {
			for field := range section.Type.Fields() {
				keys = append(keys, field.Tag.Get("toml"))
			}
		}
		all[section.Tag.Get("toml")] = keys
	}
	return all
}

// homesOf are the sections that have the key.
func homesOf(key string, known map[string][]string) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if slices.Contains(known[name], key) {
			names = append(names, name)
		}
	}
	return names
}

// nearest is the one of the words that may have been meant; "" when none is near.
func nearest(word string, words []string) (found string) {
	least := max(1, len(word)/2) + 1
	for _, w := range words {
		if d := distance(word, w); d < least {
			least, found = d, w
		}
	}
	return found
}

// distance is how many letters have to be added, taken away or changed.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			changed := diagonal
			if a[i] != b[j] {
				changed++
			}
			diagonal = row[j+1]
			row[j+1] = min(changed, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// mismatch is how the library says that a value is of another type, in Go's words.
var mismatch = regexp.MustCompile(`^cannot decode TOML (.+?) into (?:struct field .+ of type )?(\S+)$`)

// forms are how the types of the fields are written in a file; any other is that of a
// section.
var forms = map[string]string{
	"string":            `a text in quotes, such as "a"`,
	"[]string":          `a list of texts, such as ["a", "b"]`,
	"map[string]string": `a section of its own, with a line such as site = "berlin" for each label`,
}

// malformed says what is wrong with a value, and what is wanted in its place.
func malformed(at *toml.DecodeError) string {
	text := strings.TrimPrefix(at.Error(), "toml: ")
	if strings.HasSuffix(text, "at start of value") {
		return text + "; a text has to be in quotes"
	}
	found := mismatch.FindStringSubmatch(text)
	if found == nil {
		return text
	}
	return wants(at, found[1], cmp.Or(forms[found[2]], "a section of its own"))
}

func wants(at *toml.DecodeError, found, form string) string {
	return fmt.Sprintf("%s: found %s, want %s", strings.Join(at.Key(), "."), found, form)
}

// badDuration finds a duration that is no text. The library takes a whole number for one,
// of nanoseconds, and does not say where anything else is.
func badDuration(data []byte) (at *toml.DecodeError, what string) {
	if !errors.As(toml.Unmarshal(data, reflect.New(durations()).Interface()), &at) {
		return nil, ""
	}
	found := mismatch.FindStringSubmatch(strings.TrimPrefix(at.Error(), "toml: "))
	if found == nil || found[2] != "string" {
		return nil, "" // something else is wrong, and told better
	}
	return at, wants(at, found[1], `a number with a unit in quotes, such as "30s"`)
}

// durations is the shape of a file with nothing in it but durations, as texts.
func durations() reflect.Type {
	var sections []reflect.StructField
	for section := range reflect.TypeFor[v1alpha1.AgentConfig]().Fields() {
		if section.Type.Kind() != reflect.Struct {
			continue
		}
		var fields []reflect.StructField
		for field := range section.Type.Fields() {
			if field.Type == reflect.TypeFor[v1alpha1.Duration]() {
				fields = append(fields, reflect.StructField{Name: field.Name, Type: reflect.TypeFor[string](), Tag: field.Tag})
			}
		}
		sections = append(sections, reflect.StructField{Name: section.Name, Type: reflect.StructOf(fields), Tag: section.Tag})
	}
	return reflect.StructOf(sections)
}
