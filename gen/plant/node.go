package plant

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"regexp"
	"slices"
	"sort"
	"strings"

	"sigs.k8s.io/yaml"
)

// shape is what a node is.
type shape int

const (
	scalar   shape = iota
	object         // fields
	array          // items
	lines          // items, each a line of a text
	document       // fields, as YAML in a text
	whole          // a leaf, whatever it holds
)

// node is a part of what was built, with references in place of what was planted.
type node struct {
	shape  shape
	parts  []part // of a scalar
	plain  string // the scalar as it was built, in JSON
	leaf   *leaf  // of a whole leaf
	fields map[string]*node
	items  []*node
	cut    bool // of lines, the last of which does not end
	hash   uint64
}

// part is a piece of a scalar: a text, or what an expression yields.
type part struct {
	text    string
	leaf    *leaf
	element bool // one element of the leaf, which is a list
	fact    string
}

// plantedText finds sentinels.
var plantedText = regexp.MustCompile(`zq[0-9]+qz`)

// tree is everything that was built in one state.
func (g *garden) tree(s state, built map[string][]any) (*node, error) {
	root := &node{shape: object, fields: map[string]*node{}}
	for file, objects := range built {
		list := &node{shape: array}
		for _, o := range objects {
			if known := g.constants[o]; known != nil {
				list.items = append(list.items, known)
				continue
			}
			data, err := json.Marshal(o)
			if err != nil {
				return nil, fmt.Errorf("encoding an object of %s: %w", file, err)
			}
			var plain any
			decode(data, &plain)
			g.constants[o] = g.node(s, "", Clean(plain))
			list.items = append(list.items, g.constants[o])
		}
		list.seal()
		root.fields[file] = list
	}
	root.seal()
	return root, nil
}

// Clean drops what Go prints and nobody means: nulls, the status, and structs of
// defaults that are empty. Other empty maps mean something. In a definition nothing
// is noise but its own status: there all words are names of fields.
func Clean(object any) any {
	plain, isMap := object.(map[string]any)
	if isMap && plain["apiVersion"] != nil {
		delete(plain, "status")
		if plain["kind"] == "CustomResourceDefinition" {
			return plain
		}
	}
	return prune(object)
}

func prune(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key, field := range v {
			field = prune(field)
			empty, isMap := field.(map[string]any)
			isNoise := slices.Contains([]string{"status", "strategy", "updateStrategy", "resources"}, key)
			if field == nil || isMap && len(empty) == 0 && isNoise {
				delete(v, key)
			}
		}
	case []any:
		for i := range v {
			v[i] = prune(v[i])
		}
	}
	return value
}

// node puts references in place of what was planted.
func (g *garden) node(s state, key string, value any) *node {
	n := &node{}
	switch v := value.(type) {
	case map[string]any:
		if n.leaf = s.block(v); n.leaf != nil {
			n.shape = whole
			break
		}
		n.shape, n.fields = object, map[string]*node{}
		for k, field := range v {
			n.fields[k] = g.node(s, k, field)
		}
	case []any:
		if n.leaf = s.block(v); n.leaf != nil {
			n.shape = whole
			break
		}
		n.shape = array
		for _, item := range v {
			n.items = append(n.items, g.node(s, "", item))
		}
	case string:
		g.text(s, n, key, v)
	default:
		n.plain = string(must(json.Marshal(v)))
		if l := s.texts[n.plain]; l != nil && l.kind == integer {
			n.parts = []part{{leaf: l}}
		} else {
			n.parts = []part{{text: n.plain}}
		}
	}
	n.seal()
	return n
}

// text is a scalar, a document or lines.
func (g *garden) text(s state, n *node, key, value string) {
	if !strings.Contains(value, "\n") {
		n.plain = string(must(json.Marshal(value)))
		n.parts = g.partsOf(s, value)
		return
	}
	var fields map[string]any
	if strings.HasSuffix(key, ".yaml") && yaml.Unmarshal([]byte(value), &fields) == nil {
		var plain any
		decode(must(yaml.YAMLToJSON([]byte(value))), &plain)
		*n = *g.node(s, "", plain)
		n.shape = document
		return
	}
	n.shape, n.cut = lines, !strings.HasSuffix(value, "\n")
	for line := range strings.SplitSeq(strings.TrimSuffix(value, "\n"), "\n") {
		item := &node{plain: string(must(json.Marshal(line))), parts: g.partsOf(s, line)}
		item.seal()
		n.items = append(n.items, item)
	}
}

// block is the leaf that the value is, if it is one.
func (s state) block(value any) *leaf { return s.blocks[string(must(json.Marshal(value)))] }

func (g *garden) partsOf(s state, value string) (parts []part) {
	if l := s.texts[value]; l != nil && l.kind != integer {
		return []part{{leaf: l}}
	}
	rest := value
	for {
		at := plantedText.FindStringIndex(rest)
		if at == nil {
			break
		}
		word := rest[at[0]:at[1]]
		p := part{leaf: s.texts[word], fact: g.facts[word]}
		if element := s.parts[word]; element != nil {
			p = part{leaf: element, element: true}
		}
		if p.leaf == nil && p.fact == "" {
			break // a piece of a block, which the scan of the text reports
		}
		if at[0] > 0 {
			parts = append(parts, part{text: rest[:at[0]]})
		}
		parts = append(parts, p)
		rest = rest[at[1]:]
	}
	if rest != "" || len(parts) == 0 {
		parts = append(parts, part{text: rest})
	}
	return parts
}

// yields is what the parts come to in a state, in JSON when the scalar is a text.
func yields(parts []part, s state, isText bool) string {
	var out strings.Builder
	for _, p := range parts {
		switch {
		case p.element:
			for word, l := range s.parts {
				if l == p.leaf {
					out.WriteString(word)
				}
			}
		case p.leaf != nil:
			out.WriteString(s.values[p.leaf])
		case p.fact != "":
			out.WriteString("\x00" + p.fact)
		default:
			out.WriteString(p.text)
		}
	}
	if isText {
		return string(must(json.Marshal(out.String())))
	}
	return out.String()
}

// seal computes the hash, by which equal parts are found without a walk.
func (n *node) seal() {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d|%p|%t|", n.shape, n.leaf, n.cut)
	for _, p := range n.parts {
		fmt.Fprintf(h, "%q%p%t%s|", p.text, p.leaf, p.element, p.fact)
	}
	if n.isText() {
		fmt.Fprint(h, "text")
	}
	for _, key := range n.keys() {
		fmt.Fprintf(h, "%q:%x|", key, n.fields[key].hash)
	}
	for _, item := range n.items {
		fmt.Fprintf(h, "%x|", item.hash)
	}
	n.hash = h.Sum64()
}

func (n *node) isText() bool { return strings.HasPrefix(n.plain, `"`) }

func (n *node) keys() []string {
	keys := make([]string, 0, len(n.fields))
	for key := range n.fields {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

// name is what an object is known by; nil for one that has none.
func (n *node) name() *node {
	if meta := n.fields["metadata"]; meta != nil {
		return meta.fields["name"]
	}
	return n.fields["name"]
}

// identity says which items of two lists are the same one: those with the same
// name, and whatever else is equal but for planted values.
func (n *node) identity() string {
	name := n.name()
	if name == nil {
		return n.outline()
	}
	var id strings.Builder
	fmt.Fprintf(&id, "%x", name.hash)
	for _, key := range []string{"kind", "mountPath", "apiGroup"} {
		if field := n.fields[key]; field != nil {
			fmt.Fprintf(&id, "/%s=%x", key, field.hash)
		}
	}
	return id.String()
}

// outline is a node without what an item may have of its own: the value of an
// argument such as --name=VALUE, and in an object the texts with references.
func (n *node) outline() string {
	switch first := n.parts; {
	case len(first) > 1 && strings.HasSuffix(first[0].text, "=") && !first[1].element:
		return first[0].text
	case n.shape != object:
		return fmt.Sprintf("%x", n.hash)
	}
	var all strings.Builder
	for _, key := range n.keys() {
		field := n.fields[key]
		fmt.Fprintf(&all, "%q:", key)
		for _, item := range append([]*node{field}, field.items...) {
			if references(item) == 0 && len(field.items) == 0 || item != field && references(item) == 0 {
				fmt.Fprintf(&all, "%x,", item.hash)
			}
		}
	}
	return all.String()
}
