package plant

import (
	"errors"
	"slices"
)

// maxTerms bounds a condition; one that needs more belongs into a value.
const maxTerms = 3

// condition separates the states in which something is found from the others.
func (g *garden) condition(found, all []seen) (condition, error) {
	if len(found) == len(all) {
		return nil, nil
	}
	var yes, no []state
	for _, s := range all {
		if slices.ContainsFunc(found, func(f seen) bool { return f.at == s.at }) {
			yes = append(yes, g.states[s.at])
		} else {
			no = append(no, g.states[s.at])
		}
	}
	var c condition
	for len(no) > 0 && len(yes) > 0 {
		term, covered := g.best(yes, no)
		if term == nil || len(c) == maxTerms {
			return nil, errors.New("it comes and goes, and not with values that are there or not, that have one of a few values, or that are above 1")
		}
		c = append(c, term)
		yes = slices.DeleteFunc(yes, covered)
	}
	slices.SortStableFunc(c, func(a, b []literal) int { return a[0].leaf.number - b[0].leaf.number })
	return c, nil
}

// best is the term that holds in most of the states yes and in none of no.
func (g *garden) best(yes, no []state) (best []literal, covered func(state) bool) {
	if term := g.term(yes, no); term != nil {
		return term, func(s state) bool { return true }
	}
	most := 0
	for _, first := range g.literals {
		with := slices.DeleteFunc(slices.Clone(yes), func(s state) bool { return !g.holds(first, s) })
		if len(with) <= most {
			continue
		}
		if term := g.term(with, no); term != nil {
			best, most = term, len(with)
		}
	}
	return best, func(s state) bool {
		return !slices.ContainsFunc(best, func(l literal) bool { return !g.holds(l, s) })
	}
}

// term is a conjunction that holds in all states yes and in none of no; nil when
// there is none. Each time it takes the literal that rules most out.
func (g *garden) term(yes, no []state) (term []literal) {
	candidates := slices.DeleteFunc(slices.Clone(g.literals), func(l literal) bool {
		return slices.ContainsFunc(yes, func(s state) bool { return !g.holds(l, s) })
	})
	for len(no) > 0 {
		var best literal
		var left []state
		for _, l := range candidates {
			remain := slices.DeleteFunc(slices.Clone(no), func(s state) bool { return !g.holds(l, s) })
			if len(remain) < len(no) && (best.leaf == nil || len(remain) < len(left)) {
				best, left = l, remain
			}
		}
		if best.leaf == nil {
			return nil
		}
		term, no = append(term, best), left
	}
	slices.SortStableFunc(term, func(a, b literal) int { return a.leaf.number - b.leaf.number })
	return term
}

func literalsOf(leaves []*leaf) (all []literal) {
	for _, l := range leaves {
		for _, w := range l.ways {
			for _, text := range w.yields {
				if candidate := (literal{l, text}); !slices.Contains(all, candidate) {
					all = append(all, candidate)
				}
			}
		}
	}
	return all
}
