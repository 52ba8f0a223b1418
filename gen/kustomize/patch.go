package kustomize

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// step of a JSON patch (RFC 6902).
type step struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// difference makes the second value of the first, in as small steps as there are.
// Lists that grow or shrink are replaced.
func difference(path string, before, after any) (steps []step) {
	if reflect.DeepEqual(before, after) {
		return nil
	}
	oldMap, wasMap := before.(map[string]any)
	newMap, isMap := after.(map[string]any)
	if wasMap && isMap {
		for _, key := range slices.Sorted(maps.Keys(oldMap)) {
			if _, stays := newMap[key]; !stays {
				steps = append(steps, step{Op: "remove", Path: path + "/" + escape(key)})
			}
		}
		for _, key := range slices.Sorted(maps.Keys(newMap)) {
			at := path + "/" + escape(key)
			if old, was := oldMap[key]; was {
				steps = append(steps, difference(at, old, newMap[key])...)
			} else {
				steps = append(steps, step{"add", at, newMap[key]})
			}
		}
		return steps
	}
	oldList, wasList := before.([]any)
	newList, isList := after.([]any)
	if wasList && isList && len(oldList) == len(newList) {
		for i := range oldList {
			steps = append(steps, difference(path+"/"+strconv.Itoa(i), oldList[i], newList[i])...)
		}
		return steps
	}
	return []step{{"replace", path, after}}
}

func escape(key string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(key) }
