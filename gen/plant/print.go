package plant

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// printer writes templates as text. It uses few functions of Helm: quote, printf,
// int64, toJson, toYaml, nindent, include, and the conditions.
type printer struct {
	out      strings.Builder
	name     string // prefix of definitions
	used     map[*leaf]bool
	choices  []definition
	problems []string
}

// definition is a choice between texts that templates include by name.
type definition struct{ name, body string }

// Escape writes a text so that a template yields it.
func Escape(text string) string { return strings.ReplaceAll(text, "{{", `{{ "{{" }}`) }

// file prints the documents of one file.
func (p *printer) file(list *template) string {
	p.out.Reset()
	for _, run := range runs(list.items, func(o option) condition { return o.when }) {
		p.within(run[0].when, 0, func() {
			for _, o := range run {
				p.line(0, "---")
				p.fields(o.shape, 0, "")
			}
		})
	}
	text := p.out.String()
	p.scan(text)
	return text
}

// runs parts a list where the condition changes.
func runs[T any](list []T, when func(T) condition) (all [][]T) {
	for len(list) > 0 {
		end := 1
		for end < len(list) && when(list[end]).String() == when(list[0]).String() {
			end++
		}
		all, list = append(all, list[:end]), list[end:]
	}
	return all
}

func (p *printer) line(indent int, text string) {
	p.out.WriteString(strings.Repeat(" ", indent) + text + "\n")
}

// within prints something under a condition.
func (p *printer) within(when condition, indent int, body func()) {
	if len(when) == 0 {
		body()
		return
	}
	p.use(when)
	p.line(indent, fmt.Sprintf("{{- if %s }}", when))
	body()
	p.line(indent, "{{- end }}")
}

func (p *printer) use(when condition) {
	for _, term := range when {
		for _, l := range term {
			p.used[l.leaf] = true
		}
	}
}

// first keys of an object are where people look for them; the others are sorted.
func order(fields []field) []field {
	rank := func(f field) int {
		return slices.Index([]string{"metadata", "kind", "apiVersion"}, f.key)
	}
	sorted := slices.Clone(fields)
	slices.SortStableFunc(sorted, func(a, b field) int { return rank(b) - rank(a) })
	return sorted
}

// fields prints an object. The first key stands after lead, which is the dash of
// an item or nothing.
func (p *printer) fields(t *template, indent int, lead string) {
	fields := t.fields
	if slices.ContainsFunc(fields, func(f field) bool { return f.key == "apiVersion" }) {
		fields = order(fields)
	}
	if lead != "" && len(fields) > 0 && len(fields[0].when) > 0 {
		p.line(indent-len(lead), strings.TrimSuffix(lead, " "))
		lead = ""
	}
	for _, run := range runs(fields, func(f field) condition { return f.when }) {
		if len(run) == 1 && p.with(run[0], indent) {
			continue
		}
		p.within(run[0].when, indent, func() {
			for _, f := range run {
				p.field(f, indent, lead)
				lead = ""
			}
		})
	}
}

// with prints a whole leaf that is there when it is not empty.
func (p *printer) with(f field, indent int) bool {
	if f.shape.shape != whole || f.when.String() != f.shape.leaf.expression() {
		return false
	}
	p.used[f.shape.leaf] = true
	p.line(indent, fmt.Sprintf("{{- with %s }}", f.shape.leaf.expression()))
	p.line(indent, key(f.key)+":")
	p.line(indent+2, fmt.Sprintf("{{- toYaml . | nindent %d }}", indent+2))
	p.line(indent, "{{- end }}")
	return true
}

func (p *printer) field(f field, indent int, lead string) {
	at, name := indent-len(lead), lead+key(f.key)+":"
	t := f.shape
	switch {
	case t.shape == scalar:
		p.line(at, name+" "+p.scalar(f.option))
	case t.shape == whole:
		p.used[t.leaf] = true
		p.line(at, name)
		p.line(indent+2, fmt.Sprintf("{{- toYaml %s | nindent %d }}", t.leaf.expression(), indent+2))
	case t.closed && t.shape == array:
		p.line(at, name+" []")
	case t.closed:
		p.line(at, name+" {}")
	case t.shape == object:
		p.line(at, name)
		p.fields(t, indent+2, "")
	case t.shape == document:
		p.line(at, name+" |")
		p.fields(t, indent+2, "")
	case t.shape == lines:
		style := " |"
		if t.cut {
			style = " |-"
		}
		p.line(at, name+style)
		for _, run := range runs(t.items, func(o option) condition { return o.when }) {
			p.within(run[0].when, indent+2, func() {
				for _, o := range run {
					p.raw(o.shape.parts, indent+2)
				}
			})
		}
	default:
		p.line(at, name)
		p.items(t, indent)
	}
}

// raw prints a line of a text, into which nothing goes but what needs no quotes.
func (p *printer) raw(parts []part, indent int) {
	var text strings.Builder
	for _, part := range parts {
		if part.leaf != nil {
			p.problems = append(p.problems, fmt.Sprintf("the value %s is pasted into a text, where nothing quotes it", part.leaf))
		}
		if part.fact != "" {
			text.WriteString("{{ " + part.fact + " }}")
		} else {
			text.WriteString(Escape(part.text))
		}
	}
	if text.Len() == 0 {
		p.out.WriteString("\n")
		return
	}
	p.line(indent, text.String())
}

func (p *printer) items(t *template, indent int) {
	for _, run := range runs(t.items, outer) {
		p.within(outer(run[0]), indent, func() {
			for _, o := range run {
				p.item(o, indent)
			}
		})
	}
}

func (p *printer) item(o option, indent int) {
	switch l := elementOf(o.shape); {
	case l != nil:
		if slices.ContainsFunc(o.shape.parts, func(x part) bool { return !x.element && x.text == "" }) {
			p.problems = append(p.problems, fmt.Sprintf("an element of %s stands beside another value, which cannot be reached within a range", l))
		}
		p.used[l] = true
		p.line(indent, fmt.Sprintf("{{- range %s }}", l.expression()))
		p.line(indent, "- "+p.value(o.shape))
		p.line(indent, "{{- end }}")
	case o.shape.shape == scalar:
		p.line(indent, "- "+p.scalar(o))
	case o.shape.shape == object && o.shape.closed:
		p.line(indent, "- {}")
	case o.shape.shape == object:
		p.fields(o.shape, indent+2, "- ")
	default:
		p.problems = append(p.problems, "a list in a list has no template")
	}
}

// outer is the condition of an item but for the one that its range implies.
func outer(o option) condition {
	l := elementOf(o.shape)
	if l == nil || len(o.when) != 1 {
		return o.when
	}
	term := slices.DeleteFunc(slices.Clone(o.when[0]), func(x literal) bool { return x.leaf == l })
	if len(term) == 0 {
		return nil
	}
	return condition{term}
}

func elementOf(t *template) *leaf {
	for _, part := range t.parts {
		if part.element {
			return part.leaf
		}
	}
	return nil
}

// scalar prints a value, or a choice between values.
func (p *printer) scalar(o option) string {
	if len(o.others) == 0 {
		return p.value(o.shape)
	}
	flag := ""
	if o.shape.isText {
		flag = sharedFlag(o.others)
	}
	var body strings.Builder
	for i, other := range o.others {
		verb := "else if"
		if i == 0 {
			verb = "if"
		}
		if len(other.when) == 0 {
			body.WriteString("{{ else }}")
		} else {
			p.use(other.when)
			fmt.Fprintf(&body, "{{ %s %s }}", verb, other.when)
		}
		if o.shape.isText {
			body.WriteString(p.bare(other.shape.parts, flag))
		} else {
			body.WriteString(p.value(other.shape))
		}
	}
	body.WriteString("{{ end }}")
	if !o.shape.isText {
		return body.String()
	}
	name := p.define(o.others[0].when[0][0].leaf, body.String())
	if flag != "" {
		return fmt.Sprintf("{{ printf %q (include %q .) | quote }}", strings.ReplaceAll(flag, "%", "%%")+"%s", name)
	}
	return fmt.Sprintf("{{ include %q . | quote }}", name)
}

// sharedFlag is the --name= with which all the texts begin; "" for none.
func sharedFlag(others []option) string {
	flag := ""
	for _, other := range others {
		first := other.shape.parts[0].text
		name, _, found := strings.Cut(first, "=")
		if !found || !strings.HasPrefix(first, "-") || flag != "" && flag != name+"=" {
			return ""
		}
		flag = name + "="
	}
	return flag
}

// bare is a text without quotes, and without the flag that it begins with.
func (p *printer) bare(parts []part, flag string) string {
	var out strings.Builder
	for i, part := range parts {
		switch {
		case part.leaf != nil || part.fact != "":
			fmt.Fprintf(&out, "{{ %s }}", p.expression(part))
		case i == 0:
			out.WriteString(Escape(strings.TrimPrefix(part.text, flag)))
		default:
			out.WriteString(Escape(part.text))
		}
	}
	return out.String()
}

// define names a choice after the leaf that decides it.
func (p *printer) define(decides *leaf, body string) string {
	name := p.name + "." + decides.String()
	for n := 2; ; n++ {
		at := slices.IndexFunc(p.choices, func(d definition) bool { return d.name == name })
		if at < 0 {
			p.choices = append(p.choices, definition{name, body})
			return name
		}
		if p.choices[at].body == body {
			return name
		}
		name = fmt.Sprintf("%s.%s.%d", p.name, decides, n)
	}
}

// definitions prints the choices that templates include.
func (p *printer) definitions() string {
	var out strings.Builder
	for _, d := range p.choices {
		fmt.Fprintf(&out, "{{- define %q -}}\n%s\n{{- end }}\n\n", d.name, d.body)
	}
	p.scan(out.String())
	return out.String()
}

// value prints a scalar of one form.
func (p *printer) value(t *template) string {
	if len(t.parts) == 1 && t.parts[0].leaf == nil && t.parts[0].fact == "" {
		return constant(t.parts[0].text, t.isText)
	}
	if len(t.parts) == 1 {
		one := t.parts[0]
		switch {
		case one.leaf != nil && !one.element && one.leaf.kind == quantity:
			p.used[one.leaf] = true
			return fmt.Sprintf("{{ toJson %s }}", one.leaf.expression())
		case t.isText:
			return fmt.Sprintf("{{ %s | quote }}", p.expression(one))
		}
		return fmt.Sprintf("{{ %s }}", p.expression(one))
	}
	var format strings.Builder
	var operands []string
	for _, part := range t.parts {
		if part.text != "" {
			format.WriteString(strings.ReplaceAll(part.text, "%", "%%"))
			continue
		}
		format.WriteString("%s")
		operand := p.expression(part)
		if strings.Contains(operand, " ") {
			operand = "(" + operand + ")"
		}
		operands = append(operands, operand)
	}
	return fmt.Sprintf("{{ printf %q %s | quote }}", format.String(), strings.Join(operands, " "))
}

// expression yields a part.
func (p *printer) expression(one part) string {
	if one.fact != "" {
		return one.fact
	}
	p.used[one.leaf] = true
	switch {
	case one.element:
		return "."
	case one.leaf.kind == integer:
		return "int64 " + one.leaf.expression()
	}
	return one.leaf.expression()
}

func key(name string) string { return strings.TrimSuffix(constant(name, true), "\n") }

// constant is a scalar as YAML spells it.
func constant(value string, isText bool) string {
	if !isText {
		return value
	}
	if value == "" {
		return `""`
	}
	spelt, err := yaml.Marshal(value)
	if err != nil {
		panic(err) // a text
	}
	line := strings.TrimSuffix(string(spelt), "\n")
	if strings.Contains(line, "\n") { // folded, which the printer's indentation would break
		line = "'" + strings.ReplaceAll(value, "'", "''") + "'"
	}
	return Escape(line)
}

// pieces are what is left of a sentinel that was cut.
var pieces = regexp.MustCompile(`zq[0-9]|[0-9]qz`)

// scan finds what was planted and not found again: a builder changed it.
func (p *printer) scan(text string) {
	for line := range strings.Lines(text) {
		if found := pieces.FindString(strings.ToLower(line)); found != "" {
			p.problems = append(p.problems, fmt.Sprintf("a planted text is left in: %s", strings.TrimSpace(line)))
		}
		for _, word := range strings.FieldsFunc(line, func(r rune) bool { return r < '0' || r > '9' }) {
			if isUnique(word) {
				p.problems = append(p.problems, fmt.Sprintf("planted number %s is left in: %s", word, strings.TrimSpace(line)))
			}
		}
	}
}
