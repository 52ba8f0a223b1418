package fleet

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Bounds of v1alpha1.DeviceStatus.LabelConflicts; what a key may take of one.
const (
	maxConflicts    = 64
	maxConflictText = 512
	maxShownKey     = 160
)

// reservedDomains and what is below them mean something to Kubernetes or to the
// fleet: they are not for a device to claim.
var reservedDomains = []string{"kubernetes.io", "k8s.io", v1alpha1.Group}

// SanitizeLabels makes the labels that a device reported fit for its resource:
// what Kubernetes does not allow in a key or a value becomes '-', and what is too
// long is cut. conflicts says which labels could not be taken and why, sorted and
// bounded as v1alpha1.DeviceStatus.LabelConflicts is. labels always holds the
// device's id under v1alpha1.LabelDeviceID, and of the others those that allows
// takes as they become.
func SanitizeLabels(id wire.DeviceID, reported map[string]string, allows func(key, value string) bool) (labels map[string]string, conflicts []string) {
	labels = map[string]string{}
	refuse := func(key, why string) {
		text := fmt.Sprintf("%q: %s", wire.CleanText(key, maxShownKey), why)
		conflicts = append(conflicts, wire.CleanText(text, maxConflictText))
	}
	// claims holds the reported keys that want each key, in sorted order.
	claims := map[string][]string{}
	for _, key := range slices.Sorted(maps.Keys(reported)) {
		clean := sanitizeKey(key)
		switch {
		case clean == "":
			refuse(key, "nothing of it can be a label key")
		case clean == v1alpha1.LabelDeviceID:
			refuse(key, "the operator sets this label")
		case reserved(clean):
			refuse(key, "its prefix is reserved")
		default:
			claims[clean] = append(claims[clean], key)
		}
	}
	for clean, keys := range claims {
		exact := slices.Contains(keys, clean)
		for _, key := range keys {
			switch {
			case key == clean || len(keys) == 1:
				if value := sanitizeName(reported[key]); allows(clean, value) {
					labels[clean] = value
				} else {
					refuse(key, fmt.Sprintf("the device's policy does not allow the value %q", value))
				}
			case exact:
				refuse(key, fmt.Sprintf("it becomes %q, which is reported as well", clean))
			default:
				refuse(key, fmt.Sprintf("it becomes %q, as another one does", clean))
			}
		}
	}
	labels[v1alpha1.LabelDeviceID] = string(id)
	slices.Sort(conflicts)
	conflicts = slices.Compact(conflicts)
	return labels, conflicts[:min(len(conflicts), maxConflicts)]
}

func reserved(key string) bool {
	prefix, _, found := strings.Cut(key, "/")
	return found && slices.ContainsFunc(reservedDomains, func(domain string) bool {
		return prefix == domain || strings.HasSuffix(prefix, "."+domain)
	})
}

// sanitizeKey is the nearest label key, or "" when there is none.
func sanitizeKey(key string) string {
	prefix, name, found := strings.Cut(key, "/")
	if !found {
		return sanitizeName(key)
	}
	name = sanitizeName(name)
	prefix = strings.Trim(strings.Map(domainRune, strings.ToLower(prefix)), "-.")
	if name == "" || len(validation.IsDNS1123Subdomain(prefix)) > 0 {
		return ""
	}
	return prefix + "/" + name
}

// sanitizeName is the nearest text that may be the name of a label key, or a
// label value; it may be empty.
func sanitizeName(text string) string {
	text = strings.Trim(strings.Map(nameRune, text), "-._")
	return strings.TrimRight(text[:min(len(text), validation.LabelValueMaxLength)], "-._")
}

func nameRune(r rune) rune {
	if r == '.' || r == '_' || 'A' <= r && r <= 'Z' || alphanumeric(r) {
		return r
	}
	return '-'
}

func domainRune(r rune) rune {
	if r == '.' || alphanumeric(r) {
		return r
	}
	return '-'
}

func alphanumeric(r rune) bool { return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' }
