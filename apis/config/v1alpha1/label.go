package v1alpha1

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of labels in Kubernetes, in bytes: of a value, and of a key without its prefix;
// and of that. wire.MaxLabels of them share a message with the inventory.
const (
	maxName   = 63
	maxPrefix = 253
)

// nameRule is Kubernetes' of names and values, for a person who has to write another.
const nameRule = "want letters, digits, '-', '_' and '.', a letter or digit at both ends, at most 63"

// validLabel fails for a label that Kubernetes would not take, and names the nearest
// one that it would. No library says so here: a device has nothing of Kubernetes.
func validLabel(key, value string) error {
	prefix, name, prefixed := strings.Cut(key, "/")
	if !prefixed {
		prefix, name = "", key
	}
	switch {
	case prefixed && !isSubdomain(prefix):
		return errors.New("the key: want before its / the name of a domain in small letters, such as example.com, at most 253")
	case name == "" || !isName(name):
		return fmt.Errorf("the key: %s%s", nameRule, instead(strings.TrimSuffix(key, name), name))
	case !isName(value):
		return fmt.Errorf("the value %q: %s%s", value, nameRule, instead("", value))
	}
	return nil
}

func isName(text string) bool { return len(text) <= maxName && text == clean(text) }

// instead proposes a name, after a prefix that stays.
func instead(prefix, name string) string {
	name = clean(name)
	if name = clean(name[:min(len(name), maxName)]); name == "" {
		return ""
	}
	return fmt.Sprintf("; write %q", prefix+name)
}

// clean is the text with what no name has replaced, and without what none begins or
// ends with.
func clean(text string) string {
	return strings.Trim(strings.Map(func(r rune) rune {
		if alphanumeric(r) || 'A' <= r && r <= 'Z' || r == '_' || r == '.' {
			return r
		}
		return '-'
	}, text), "-_.")
}

func isSubdomain(text string) bool {
	for part := range strings.SplitSeq(text, ".") {
		if part == "" || strings.Trim(part, "-") != part {
			return false
		}
		for _, r := range part {
			if !alphanumeric(r) && r != '-' {
				return false
			}
		}
	}
	return len(text) <= maxPrefix
}

// alphanumeric is for what is in lower case.
func alphanumeric(r rune) bool { return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' }
