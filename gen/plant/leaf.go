package plant

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// leaf is one value that a person can choose.
type leaf struct {
	path   []string
	index  []int
	number int
	kind   kind
	typ    reflect.Type
	ways   []way // the first is planted
}

// kind of a leaf is how a template prints it.
type kind int

const (
	text     kind = iota // quoted
	integer              // by int64
	flag                 // bare
	quantity             // as JSON
	list                 // of texts: by range, or as YAML
	block                // as YAML
)

// way is one way in which a leaf can be, and the conditions that are true then.
type way struct {
	set    func(reflect.Value)
	yields []string
}

// literal is a condition on one leaf, as a template spells it.
type literal struct {
	leaf *leaf
	text string
}

// String is the path, as people write it.
func (l *leaf) String() string { return strings.Join(l.path, ".") }

func (l *leaf) expression() string { return ".Values." + l.String() }

// sentinel is a text that nothing else contains and nothing has to quote.
func sentinel(n int) string { return "zq" + strconv.Itoa(n) + "qz" }

// unique is a number that nothing else is, far from every other.
func unique(n int) int64 { return 700_001 + 7919*int64(n) }

// leavesOf walks the types of this module; what is of others is one leaf.
func leavesOf(t reflect.Type, enums map[string][]string) ([]*leaf, error) {
	w := &walker{enums: enums, module: modulePath(t), seen: map[string]bool{}}
	if err := w.walk(t, nil, nil); err != nil {
		return nil, err
	}
	for path := range enums {
		if !w.seen[path] {
			return nil, fmt.Errorf("there are values for the leaf %s, which there is not", path)
		}
	}
	return w.leaves, nil
}

type walker struct {
	enums  map[string][]string
	module string
	leaves []*leaf
	seen   map[string]bool
}

// modulePath is the first three elements of the path of the type's package.
func modulePath(t reflect.Type) string {
	parts := strings.SplitN(t.PkgPath(), "/", 4)
	return strings.Join(parts[:min(3, len(parts))], "/")
}

func (w *walker) walk(t reflect.Type, path []string, index []int) error {
	for i := range t.NumField() {
		field := t.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			return fmt.Errorf("the field %s of %s has no name in JSON", field.Name, t)
		}
		at := append(append([]string{}, path...), name)
		where := append(append([]int{}, index...), i)
		if field.Type.Kind() == reflect.Struct && modulePath(field.Type) == w.module {
			if err := w.walk(field.Type, at, where); err != nil {
				return err
			}
			continue
		}
		l := &leaf{path: at, index: where, number: len(w.leaves), typ: field.Type}
		l.describe(strings.Contains(options, "omitempty"))
		l.choose(w.enums[l.String()])
		w.seen[l.String()] = true
		w.leaves = append(w.leaves, l)
	}
	return nil
}

// describe says how the leaf is planted, and in which other ways it can be.
func (l *leaf) describe(optional bool) {
	l.kind = kindOf(l.typ)
	zero := way{set: func(v reflect.Value) { v.SetZero() }}
	planted := way{set: func(v reflect.Value) { fill(v, l.number) }}
	is, isNot := l.expression(), "not "+l.expression()
	switch {
	case l.typ.Kind() == reflect.Pointer && l.kind != block:
		planted.yields = []string{fmt.Sprintf("not (kindIs \"invalid\" %s)", is)}
		zero.yields = []string{fmt.Sprintf("kindIs \"invalid\" %s", is)}
	case l.kind == integer:
		planted.yields, zero.yields = []string{fmt.Sprintf("gt (int64 %s) 1", is)}, []string{fmt.Sprintf("le (int64 %s) 1", is)}
		zero.set = func(v reflect.Value) { v.SetInt(1) }
	case l.kind == flag || l.kind == list || l.kind == block || optional:
		planted.yields, zero.yields = []string{is}, []string{isNot}
	default:
		l.ways = []way{planted} // it always has a value
		return
	}
	l.ways = []way{planted, zero}
}

// choose adds a way for each of the values of a leaf that has few.
func (l *leaf) choose(values []string) {
	for _, other := range values {
		l.ways[0].yields = append(l.ways[0].yields, fmt.Sprintf("ne %s %q", l.expression(), other))
		one := way{set: func(v reflect.Value) { v.SetString(other) }}
		for _, value := range values {
			verb := "ne"
			if value == other {
				verb = "eq"
			}
			one.yields = append(one.yields, fmt.Sprintf("%s %s %q", verb, l.expression(), value))
		}
		l.ways = append(l.ways, one)
	}
}

func kindOf(t reflect.Type) kind {
	switch {
	case t == reflect.TypeFor[resource.Quantity]():
		return quantity
	case t.Implements(reflect.TypeFor[encoding.TextMarshaler]()) || t.Kind() == reflect.String:
		return text
	case t.Kind() == reflect.Pointer && t.Elem().Kind() != reflect.Struct:
		return kindOf(t.Elem())
	case t.Kind() == reflect.Bool:
		return flag
	case t.Kind() == reflect.Int || t.Kind() == reflect.Int32 || t.Kind() == reflect.Int64:
		return integer
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		return list
	}
	return block
}

// register notes what the leaf looks like in what is built.
func (l *leaf) register(v reflect.Value, planted bool, s *state) {
	data, err := json.Marshal(v.Interface())
	if err != nil {
		panic(fmt.Sprintf("encoding the value %s: %v", l, err)) // planted by this package
	}
	var plain any
	decode(data, &plain)
	canonical := string(must(json.Marshal(plain)))
	switch l.kind {
	case block, list:
		s.values[l] = canonical
		if planted {
			s.blocks[canonical] = l
		}
		if planted && l.kind == list {
			s.parts[v.Index(0).String()] = l
		}
	default:
		value := canonical
		if str, isText := plain.(string); isText {
			value = str
		}
		s.values[l] = value
		if planted && l.kind != flag {
			s.texts[value] = l
		}
	}
}
