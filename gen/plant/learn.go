package plant

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// template is a node of all states: what is there always, and what is there
// under a condition.
type template struct {
	shape  shape
	parts  []part
	isText bool
	leaf   *leaf
	fields []field
	items  []option
	// cut is a text whose last line does not end.
	cut bool
	// closed is a map or list that nothing is ever in.
	closed bool
}

// field is what stands at a key: the same key again for each form that it has.
type field struct {
	key string
	option
}

// option is a template that is there under a condition.
type option struct {
	when  condition
	shape *template
	// others are further forms of a scalar, the last of which has no condition.
	others []option
}

// condition is true when one of its terms is, and a term when all its literals
// are. Without terms it is always true.
type condition [][]literal

// seen is a node in one state.
type seen struct {
	at   int // the state's
	node *node
}

// learn finds the template of everything that was built.
func (g *garden) learn() (*template, error) {
	all := make([]seen, len(g.roots))
	for i, root := range g.roots {
		all[i] = seen{i, root}
	}
	return g.template(all, "")
}

// template is that of nodes at one place, all of one shape.
func (g *garden) template(all []seen, path string) (*template, error) {
	first := all[0].node
	t := &template{shape: first.shape, parts: first.parts, isText: first.isText(), leaf: first.leaf, cut: first.cut}
	if !slices.ContainsFunc(all, func(s seen) bool { return s.node.hash != first.hash }) {
		all = all[:1] // it is the same in every state
	}
	switch first.shape {
	case object, document:
		return t, g.fields(t, all, path)
	case array, lines:
		return t, g.items(t, all, path)
	}
	return t, nil
}

func (g *garden) fields(t *template, all []seen, path string) error {
	keys := map[string][]seen{}
	for _, s := range all {
		for key, child := range s.node.fields {
			keys[key] = append(keys[key], seen{s.at, child})
		}
	}
	t.closed = len(keys) == 0
	sorted := make([]string, 0, len(keys))
	for key := range keys {
		sorted = append(sorted, key)
	}
	slices.Sort(sorted)
	for _, key := range sorted {
		options, err := g.options(keys[key], all, path+"/"+key)
		if err != nil {
			return err
		}
		for _, o := range options {
			t.fields = append(t.fields, field{key, o})
		}
	}
	return nil
}

func (g *garden) items(t *template, all []seen, path string) error {
	sequence := align(all)
	t.closed = len(sequence) == 0
	for _, place := range sequence {
		options, err := g.options(place.found, all, path+"/"+place.label)
		if err != nil {
			return err
		}
		t.items = append(t.items, options...)
	}
	return nil
}

// options are the forms of what is at one place in some of all the states.
func (g *garden) options(found, all []seen, path string) ([]option, error) {
	var options []option
	for _, form := range g.forms(found) {
		when, err := g.condition(form, all)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		t, err := g.template(form, path)
		if err != nil {
			return nil, err
		}
		options = append(options, option{when: when, shape: t})
	}
	return g.choose(options, found, all)
}

// choose joins the forms of a scalar into one choice under the condition of its
// being there, which reads better than each form with its own.
func (g *garden) choose(options []option, found, all []seen) ([]option, error) {
	if len(options) < 2 || slices.ContainsFunc(options, func(o option) bool { return o.shape.shape != scalar }) {
		return options, nil
	}
	when, err := g.condition(found, all)
	if err != nil {
		return options, nil //nolint:nilerr // each form has a condition of its own
	}
	forms := g.forms(found)
	inner := option{when: when}
	for i, form := range forms {
		o := option{shape: options[i].shape}
		if i < len(forms)-1 {
			// What an earlier form holds under is ruled out for the later ones.
			if o.when, err = g.condition(form, slices.Concat(forms[i:]...)); err != nil {
				return options, nil //nolint:nilerr // as above
			}
		}
		inner.others = append(inner.others, o)
	}
	inner.shape = inner.others[0].shape
	return []option{inner}, nil
}

// forms parts the nodes by what they are. Scalars that one reference explains in
// every state are one form, though a value other than the planted one was seen.
func (g *garden) forms(found []seen) [][]seen {
	var forms [][]seen
	byShape := map[string][]seen{}
	var order []string
	for _, s := range found {
		key := fmt.Sprintf("%d/%p/%t", s.node.shape, s.node.leaf, s.node.cut)
		if byShape[key] == nil {
			order = append(order, key)
		}
		byShape[key] = append(byShape[key], s)
	}
	for _, key := range order {
		group := byShape[key]
		if group[0].node.shape != scalar {
			forms = append(forms, group)
			continue
		}
		forms = append(forms, g.scalars(group)...)
	}
	return forms
}

// scalars parts scalars by the references that explain them, those with most
// references first.
func (g *garden) scalars(group []seen) (forms [][]seen) {
	slices.SortStableFunc(group, func(a, b seen) int {
		return cmp.Or(references(b.node)-references(a.node), choices(b.node)-choices(a.node))
	})
	for len(group) > 0 {
		chosen := group[0].node
		var form, rest []seen
		for _, s := range group {
			got := yields(s.node.parts, g.states[s.at], s.node.isText())
			want := yields(chosen.parts, g.states[s.at], chosen.isText())
			if got == want {
				form = append(form, s)
			} else {
				rest = append(rest, s)
			}
		}
		// The template of a form is that of its first node.
		forms, group = append(forms, form), rest
	}
	return forms
}

func references(n *node) (count int) {
	for _, p := range n.parts {
		if p.leaf != nil || p.fact != "" {
			count++
		}
	}
	return count
}

// choices are the references to values.
func choices(n *node) (count int) {
	for _, p := range n.parts {
		if p.leaf != nil {
			count++
		}
	}
	return count
}

// place is an item of a list that some states have.
type place struct {
	id    string
	label string
	found []seen
}

// align finds the places of all lists, in an order that holds for each of them.
func align(all []seen) []*place {
	if sameLength(all) {
		return inOrder(all)
	}
	var sequence []*place
	for _, s := range all {
		items := s.node.items
		ids := make([]string, len(items))
		for i, item := range items {
			ids[i] = item.identity()
		}
		sequence = merge(sequence, ids, func(i int) seen { return seen{s.at, items[i]} })
	}
	return sequence
}

// sameLength tells whether all lists have as many items, none of which has a name:
// then an item is known by its place.
func sameLength(all []seen) bool {
	length := len(all[0].node.items)
	return !slices.ContainsFunc(all, func(s seen) bool {
		return len(s.node.items) != length || slices.ContainsFunc(s.node.items, func(n *node) bool { return n.name() != nil })
	})
}

func inOrder(all []seen) []*place {
	sequence := make([]*place, len(all[0].node.items))
	for i := range sequence {
		sequence[i] = &place{label: fmt.Sprint(i)}
		for _, s := range all {
			sequence[i].found = append(sequence[i].found, seen{s.at, s.node.items[i]})
		}
	}
	return sequence
}

// merge adds a list to the places, along the longest common subsequence.
func merge(sequence []*place, ids []string, item func(int) seen) []*place {
	common := make([][]int, len(sequence)+1)
	for i := range common {
		common[i] = make([]int, len(ids)+1)
	}
	for i := len(sequence) - 1; i >= 0; i-- {
		for j := len(ids) - 1; j >= 0; j-- {
			if sequence[i].id == ids[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var merged []*place
	i, j := 0, 0
	for i < len(sequence) || j < len(ids) {
		switch {
		case i < len(sequence) && j < len(ids) && sequence[i].id == ids[j]:
			sequence[i].found = append(sequence[i].found, item(j))
			merged = append(merged, sequence[i])
			i, j = i+1, j+1
		case j == len(ids) || i < len(sequence) && common[i+1][j] >= common[i][j+1]:
			merged = append(merged, sequence[i])
			i++
		default:
			merged = append(merged, &place{id: ids[j], label: fmt.Sprint(j), found: []seen{item(j)}})
			j++
		}
	}
	return merged
}

// String is the condition as a template spells it; "" when it is always true.
func (c condition) String() string {
	terms := make([]string, len(c))
	for i, term := range c {
		literals := make([]string, len(term))
		for j, l := range term {
			literals[j] = l.text
		}
		terms[i] = operator("and", literals)
	}
	return operator("or", terms)
}

func operator(name string, operands []string) string {
	if len(operands) == 0 {
		return ""
	}
	if len(operands) == 1 {
		return operands[0]
	}
	for i, o := range operands {
		if strings.Contains(o, " ") {
			operands[i] = "(" + o + ")"
		}
	}
	return name + " " + strings.Join(operands, " ")
}
