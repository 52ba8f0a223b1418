// Package overlay tells whether containers' storage can use overlayfs. It mounts
// nothing.
package overlay

import (
	"fmt"
	"syscall"
)

// magic is the file system type of overlayfs, see statfs(2).
const magic = 0x794c7630

// Works is whether an overlay can have its layers in the folder. It cannot where the
// folder lies on an overlay itself, as in a container: the kernel does not stack those.
func Works(dir string) (bool, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return false, fmt.Errorf("looking at the file system of %s: %w", dir, err)
	}
	return fs.Type != magic, nil
}
