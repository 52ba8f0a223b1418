package podman

import (
	"strings"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
)

// texts are what the errors of podman 4.3 to 5.x say for each reason. The first
// line with a text that occurs decides.
var texts = []struct {
	reason string
	any    []string
}{
	{reconcile.ReasonPortInUse, []string{"address already in use", "port is already allocated"}},
	{reconcile.ReasonDiskFull, []string{"no space left on device", "disk quota exceeded"}},
	{reconcile.ReasonDiskReadOnly, []string{"read-only file system"}},
	{reconcile.ReasonLimitRefused, []string{"setrlimit", "rlimit", "unable to set memory limit"}},
	// podman takes any file that a runtime misses for the command.
	{reconcile.ReasonCgroupError, []string{"cgroup config"}},
	{reconcile.ReasonWrongArchitecture, []string{"exec format error"}},
	{reconcile.ReasonCommandNotFound, []string{"executable file", "exec: ", "invoke a command that was not found"}},
	{reconcile.ReasonVolumeMissing, []string{"statfs ", "stat /"}},
	{reconcile.ReasonImageMissing, []string{"no such image", "image not known", "unable to find image"}},
	{reconcile.ReasonNameInUse, []string{"is already in use"}},
	{reconcile.ReasonCgroupError, []string{"cgroup"}},
}

// Reason finds out what podman's error text means; what is not known is a
// ReasonPodmanError.
func Reason(text string) string {
	lower := strings.ToLower(text)
	for _, t := range texts {
		for _, part := range t.any {
			if strings.Contains(lower, part) {
				return t.reason
			}
		}
	}
	return reconcile.ReasonPodmanError
}
