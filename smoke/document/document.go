// Package document reads what a document in Markdown has people type, so that tests
// do that. It knows indented blocks and nothing else of Markdown, and runs nothing.
package document

import "strings"

// Blocks are those of each section of a document: lines that are indented by four
// spaces, without them.
func Blocks(text string) map[string][]string {
	all, name, inside := map[string][]string{}, "", false
	for line := range strings.Lines(text) {
		if heading, found := strings.CutPrefix(line, "## "); found {
			name = strings.TrimSpace(heading)
		}
		code, indented := strings.CutPrefix(line, "    ")
		switch blocks := all[name]; {
		case indented && inside:
			blocks[len(blocks)-1] += code
		case indented:
			all[name] = append(blocks, code)
		}
		inside = indented
	}
	return all
}
