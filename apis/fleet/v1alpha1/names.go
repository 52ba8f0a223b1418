package v1alpha1

// Names that users meet on the resources.
const (
	// LabelDeviceID is on every Device, with the device's id as its value. The
	// operator sets it from the name of the Device, never from what a device
	// claims. `{key: device-id, operator: Exists}` is how a selector says
	// "every device".
	LabelDeviceID = "device-id"

	// Finalizer keeps a Deployment until its desired state has been taken back
	// from every device's key.
	Finalizer = Group + "/desired-state"

	// AnnotationForceDelete on a Deployment that is being deleted lets it go
	// although its keys could not be removed yet ("true"); the operator purges
	// them when it can.
	AnnotationForceDelete = Group + "/force-delete"

	// AnnotationHoldUntil on a Device is the time until which it changes nothing of
	// what it runs, as RFC 3339 has it, such as "2026-12-01T06:00:00Z".
	AnnotationHoldUntil = Group + "/hold-until"

	// AnnotationSchemaHash on a CustomResourceDefinition is the hash of the
	// schema that it was generated with.
	AnnotationSchemaHash = Group + "/schema-hash"

	// AnnotationVersion on a CustomResourceDefinition is the version of the
	// release that it is of, such as "v1.2.3".
	AnnotationVersion = Group + "/version"

	// AnnotationAllowDowngrade on a CustomResourceDefinition lets one take its place
	// that lacks some of its fields ("true"); what they held is lost.
	AnnotationAllowDowngrade = Group + "/allow-downgrade"
)

// Condition types. Deployments carry Ready, Reconciling and Stalled as kstatus
// reads them; Devices carry Reachable, IdentityConflict while it is true, and Held
// while the device says so, or while it is false because of a mistake.
const (
	// ConditionReady is true when every matched device that can be reached
	// runs what the Deployment says.
	ConditionReady = "Ready"
	// ConditionReconciling is true while devices are still to follow.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is true when only a change by a user helps.
	ConditionStalled = "Stalled"
	// ConditionReachable is true while a Device's heartbeats arrive.
	ConditionReachable = "Reachable"
	// ConditionIdentityConflict is true while two agents use one device id.
	ConditionIdentityConflict = "IdentityConflict"
	// ConditionHeld is true while a device changes nothing of what it runs.
	ConditionHeld = "Held"
)

// Condition reasons; events use the same words.
const (
	// ReasonSucceeded: every reachable matched device succeeded.
	ReasonSucceeded = "Succeeded"
	// ReasonNoMatch: the selector is valid and matches no device yet.
	ReasonNoMatch = "NoDevicesMatch"
	// ReasonProgressing: some reachable devices are pending.
	ReasonProgressing = "Progressing"
	// ReasonDevicesFailed: some devices failed; lastError has one of the causes.
	ReasonDevicesFailed = "DevicesFailed"
	// ReasonPaused: spec.paused holds new writes back.
	ReasonPaused = "Paused"
	// ReasonInvalidSpec: the spec cannot be carried out as it is.
	ReasonInvalidSpec = "InvalidSpec"
	// ReasonDeleting: the desired state is being taken back.
	ReasonDeleting = "Deleting"

	// ReasonHeartbeat: heartbeats arrive in time.
	ReasonHeartbeat = "HeartbeatReceived"
	// ReasonHeartbeatMissed: no heartbeat for three intervals.
	ReasonHeartbeatMissed = "HeartbeatMissed"
	// ReasonNeverSeen: no heartbeat has ever been recorded.
	ReasonNeverSeen = "NeverSeen"
	// ReasonTwoAgents: heartbeats of two agent processes alternate, or one says that
	// it stands by for another.
	ReasonTwoAgents = "TwoAgents"
	// ReasonHeldByDevice: somebody on the device asked for it.
	ReasonHeldByDevice = "HeldByDevice"
	// ReasonHeldByCluster: the annotation hold-until says so, and the device follows.
	ReasonHeldByCluster = "HeldByCluster"
	// ReasonInvalidHold: the annotation hold-until is not a time, and does nothing.
	ReasonInvalidHold = "InvalidHold"
	// ReasonStatesPurged: a device stored far more states than it runs Deployments;
	// an event alone.
	ReasonStatesPurged = "StatesPurged"
)
