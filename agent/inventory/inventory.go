// Package inventory describes the device that the agent runs on: its hardware,
// its kernel and its operating system, as the kernel and os-release tell them.
// It reads files and nothing else: it runs no command and never asks podman.
package inventory

import (
	"bufio"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Collect reads the device below root, which is "/" outside of tests. What
// cannot be read stays empty: an inventory with a gap is of more use than none.
// It leaves PodmanVersion, AgentVersion and DiskBytes to those who know them.
func Collect(root string) wire.Inventory {
	release := fields(filepath.Join(root, "etc/os-release"), "=")
	if len(release) == 0 {
		release = fields(filepath.Join(root, "usr/lib/os-release"), "=")
	}
	cpu := fields(filepath.Join(root, "proc/cpuinfo"), ":")
	return wire.Inventory{
		Hostname:        line(filepath.Join(root, "proc/sys/kernel/hostname")),
		Architecture:    runtime.GOARCH,
		OperatingSystem: first(release, "PRETTY_NAME", "NAME"),
		KernelVersion:   line(filepath.Join(root, "proc/sys/kernel/osrelease")),
		// x86 names the processor, arm boards name themselves, riscv its core.
		CPUModel:    first(cpu, "model name", "Model", "Hardware", "uarch"),
		CPUCount:    int32(len(cpu["processor"])),
		MemoryBytes: kibibytes(first(fields(filepath.Join(root, "proc/meminfo"), ":"), "MemTotal")),
	}
}

// fields reads lines of "key<separator>value" and keeps all values of a key.
// Quotes around a value, as os-release has them, are taken off.
func fields(path, separator string) map[string][]string {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }()
	values := map[string][]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		key, value, found := strings.Cut(lines.Text(), separator)
		if !found {
			continue
		}
		key, value = strings.TrimSpace(key), strings.Trim(strings.TrimSpace(value), `"'`)
		values[key] = append(values[key], value)
	}
	return values
}

// first is the first value of the first of the keys that has one.
func first(values map[string][]string, keys ...string) string {
	for _, key := range keys {
		for _, value := range values[key] {
			if value != "" {
				return value
			}
		}
	}
	return ""
}

// line is the content of a file of one line.
func line(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// kibibytes reads "16384 kB", which the kernel means as 1024 bytes each.
func kibibytes(text string) int64 {
	number, _, _ := strings.Cut(text, " ")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n * 1024
}
