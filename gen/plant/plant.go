// Package plant turns builders, which are plain Go functions from values to
// objects, into templates that build the same objects from the same values. It
// plants values that cannot be confused, builds, and finds them again; then it
// changes values, builds again, and learns from what comes and goes under which
// condition each part is there. It knows neither the values nor the objects of
// anybody, and it trusts nothing that it learnt: what a builder does that
// templates of this kind cannot say ends in an error here, or is found by the
// comparison of both renderings.
package plant

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
)

// samples is how many random choices are built beside the ones that change a
// single value. Conditions of two or three values show in one of eight.
const samples = 240

// Source is what templates are made from.
type Source[V any] struct {
	// Build returns the objects of each file. It must be total: any V builds.
	Build func(V) map[string][]any
	// Enums are the values of a leaf that has few, by its path, such as "nats.tls.source".
	Enums map[string][]string
	// Facts are texts that Build uses beside the values, by the template expression
	// that yields them; each must be one of Fact.
	Facts map[string]string
	// Name is prefixed to the names of the templates' own definitions.
	Name string
}

// Fact is a text that cannot be confused, for each n below 1,000.
func Fact(n int) string { return sentinel(1000 + n) }

// Templates are the files' texts, and the definitions that they include.
func Templates[V any](s Source[V]) (files map[string]string, definitions string, err error) {
	var zero V
	leaves, err := leavesOf(reflect.TypeOf(zero), s.Enums)
	if err != nil {
		return nil, "", err
	}
	facts := map[string]string{}
	for expression, text := range s.Facts {
		facts[text] = expression
	}
	garden := &garden{leaves: leaves, facts: facts, literals: literalsOf(leaves), constants: map[any]*node{}}
	for _, choice := range plans(leaves) {
		var values V
		state := garden.plant(reflect.ValueOf(&values).Elem(), choice)
		root, err := garden.tree(state, s.Build(values))
		if err != nil {
			return nil, "", err
		}
		garden.states = append(garden.states, state)
		garden.roots = append(garden.roots, root)
	}
	root, err := garden.learn()
	if err != nil {
		return nil, "", err
	}
	p := &printer{name: s.Name, used: map[*leaf]bool{}}
	files = map[string]string{}
	for _, file := range root.fields {
		files[file.key] = p.file(file.shape)
	}
	definitions = p.definitions()
	return files, definitions, errorsOf(p, leaves)
}

// errorsOf are what the printer could not print, and values without influence.
func errorsOf(p *printer, leaves []*leaf) error {
	for _, l := range leaves {
		if !p.used[l] {
			p.problems = append(p.problems, fmt.Sprintf("the value %s influences nothing", l))
		}
	}
	if len(p.problems) > 0 {
		return fmt.Errorf("builders that templates cannot follow:\n%s", strings.Join(p.problems, "\n"))
	}
	return nil
}

// plans are what to build: everything planted, each other way of each leaf
// alone, and random ones.
func plans(leaves []*leaf) [][]int {
	all := [][]int{make([]int, len(leaves))}
	for i, l := range leaves {
		for way := 1; way < len(l.ways); way++ {
			choice := make([]int, len(leaves))
			choice[i] = way
			all = append(all, choice)
		}
	}
	random := rand.New(rand.NewPCG(1, 2)) // the same at each run: what is generated must not change by itself
	for range samples {
		choice := make([]int, len(leaves))
		for i, l := range leaves {
			choice[i] = random.IntN(len(l.ways))
		}
		all = append(all, choice)
	}
	return all
}

// garden is everything that was built.
type garden struct {
	leaves []*leaf
	facts  map[string]string // expressions by planted text
	// literals are all conditions on one leaf each, in the order of the leaves.
	literals []literal
	states   []state
	roots    []*node
	// constants are the objects by their pointers: what a builder returns each time,
	// such as a large definition, is encoded once.
	constants map[any]*node
}

// state is how the leaves were in one build.
type state struct {
	choice []int
	texts  map[string]*leaf // planted text that stands for the whole leaf
	blocks map[string]*leaf // planted JSON of a whole leaf
	values map[*leaf]string // what a reference to the leaf yields
	parts  map[string]*leaf // planted text of one element of a list
}

// plant fills the values as the choice says.
func (g *garden) plant(values reflect.Value, choice []int) state {
	s := state{choice: choice, texts: map[string]*leaf{}, blocks: map[string]*leaf{}, values: map[*leaf]string{}, parts: map[string]*leaf{}}
	for i, l := range g.leaves {
		l.ways[choice[i]].set(values.FieldByIndex(l.index))
		l.register(values.FieldByIndex(l.index), choice[i] == 0, &s)
	}
	return s
}

// holds tells whether a literal is true in a state.
func (g *garden) holds(l literal, s state) bool {
	return slices.Contains(l.leaf.ways[s.choice[l.leaf.number]].yields, l.text)
}
