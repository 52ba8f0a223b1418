package fleet

import "github.com/nationtech/harmony-fleet/apis/wire"

// SanitizeLabels makes the labels that a device reported fit for its resource.
// conflicts says which could not be taken and why, sorted and bounded as
// v1alpha1.DeviceStatus.LabelConflicts is. labels always holds the device's id.
func SanitizeLabels(id wire.DeviceID, reported map[string]string) (labels map[string]string, conflicts []string) {
	return map[string]string{}, nil
}
