package wire

// Bounds of a DeviceInfo.
const (
	// MaxLabels bounds the labels of one device.
	MaxLabels = 64
	// MaxLabelText bounds a reported label's key and value, in bytes. They are
	// sanitised to Kubernetes' own rules by the operator.
	MaxLabelText = 512
)

// DeviceInfo is what a device says it is. Labels route workloads; whether a
// device may carry them is not for the device to say.
type DeviceInfo struct {
	// Labels as the device's owner wrote them.
	Labels map[string]string `json:"labels,omitempty"`
	// Inventory of hardware and software.
	Inventory Inventory `json:"inventory"`
	// Hold is why the device changes nothing now; nil when it does.
	Hold *Hold `json:"hold,omitempty"`
}

// Inventory is a snapshot of a device's hardware and software.
type Inventory struct {
	// hostname of the device.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Hostname string `json:"hostname,omitempty"`
	// architecture as Go and OCI spell it: amd64, arm64, arm, riscv64.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Architecture string `json:"architecture,omitempty"`
	// operatingSystem is PRETTY_NAME of os-release.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	OperatingSystem string `json:"operatingSystem,omitempty"`
	// kernelVersion as uname -r prints it.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	KernelVersion string `json:"kernelVersion,omitempty"`
	// podmanVersion of the podman service.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	PodmanVersion string `json:"podmanVersion,omitempty"`
	// agentVersion of fleet-agent.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	AgentVersion string `json:"agentVersion,omitempty"`
	// cpuModel of the first processor.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	CPUModel string `json:"cpuModel,omitempty"`
	// cpuCount is the number of logical processors.
	// +optional
	// +kubebuilder:validation:Minimum=0
	CPUCount int32 `json:"cpuCount,omitempty"`
	// memoryBytes is the size of the memory.
	// +optional
	// +kubebuilder:validation:Minimum=0
	MemoryBytes int64 `json:"memoryBytes,omitempty"`
	// diskBytes is the size of the file system that holds podman's storage.
	// +optional
	// +kubebuilder:validation:Minimum=0
	DiskBytes int64 `json:"diskBytes,omitempty"`
}

// Encode is the canonical encoding.
func (d DeviceInfo) Encode() ([]byte, error) { return encode("device info", d) }

// DecodeDeviceInfo reads a DeviceInfo and makes its texts fit to be shown. It
// fails with ErrMalformed.
func DecodeDeviceInfo(data []byte) (DeviceInfo, error) {
	var d DeviceInfo
	if err := decode("device info", data, int(DeviceInfos.MaxMessageSize), &d); err != nil {
		return DeviceInfo{}, err
	}
	if len(d.Labels) > MaxLabels {
		return DeviceInfo{}, malformed("device info", "too many labels")
	}
	for key, value := range d.Labels {
		if key == "" || len(key) > MaxLabelText || len(value) > MaxLabelText {
			return DeviceInfo{}, malformed("device info", "a label's key is empty, or its key or value is too long")
		}
	}
	if d.Hold != nil && (d.Hold.Until.IsZero() || d.Hold.By != HeldByDevice && d.Hold.By != HeldByCluster) {
		return DeviceInfo{}, malformed("device info", "hold needs until, and by must be device or cluster")
	}
	inv := &d.Inventory
	if inv.CPUCount < 0 || inv.MemoryBytes < 0 || inv.DiskBytes < 0 {
		return DeviceInfo{}, malformed("device info", "a size is negative")
	}
	for text, limit := range map[*string]int{
		&inv.Hostname: 253, &inv.Architecture: 64, &inv.OperatingSystem: 256, &inv.KernelVersion: 256,
		&inv.PodmanVersion: 64, &inv.AgentVersion: 64, &inv.CPUModel: 256,
	} {
		*text = CleanText(*text, limit)
	}
	return d, nil
}
