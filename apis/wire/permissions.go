package wire

import "time"

// Permissions is what one connection may do. They are allow lists: what is not
// named is refused, and there are no deny rules.
type Permissions struct {
	Publish   []string
	Subscribe []string
	// Responses is how many messages it may publish to the reply subject of a
	// message it received, within ResponseTTL; 0 for none.
	Responses   int
	ResponseTTL time.Duration
	// MaxSubscriptions bounds the open subscriptions; 0 means unbounded.
	MaxSubscriptions int
	// MaxPayload bounds one published message, in bytes; 0 means the server's.
	MaxPayload int
}

// InboxPrefix is the prefix of a device's reply subjects, its own so that no
// other device can listen.
func InboxPrefix(id DeviceID) string { return "_INBOX_" + string(id) }

// DevicePermissions is what the agent of one device may do: write its own keys,
// read its own desired state, hear its own hints, and answer commands to itself.
// It must not be called with an unchecked id.
func DevicePermissions(id DeviceID) Permissions { return DeviceRole(id).permissions() }

// OperatorPermissions is what the operator may do: read every bucket through a
// consumer, write and purge desired state, and purge what devices deleted.
func OperatorPermissions() Permissions { return operatorRole().permissions() }

// AdminPermissions is what a person who looks at the fleet may do: read every
// bucket, and send the commands that change nothing.
func AdminPermissions() Permissions { return adminRole().permissions() }

// DeviceRole is DevicePermissions with the reasons. It must not be called with an
// unchecked id.
func DeviceRole(id DeviceID) Role {
	key := DeviceKey(id)
	return Role{
		Name: "device", Account: AccountDevices, Who: "The agent of one device.",
		Publish: []Grant{
			{DeviceInfos.Subject(key), "tells what the device is"},
			{DeviceHeartbeats.Subject(key), "gives signs of life"},
			{DeviceStates.Subject(key) + ".*.*", "tells how each deployment does, by namespace and name"},
			{DesiredState.DirectGet(key), "reads the manifest, which is signed and names all that is valid"},
			{DesiredState.DirectGet(key) + ".*.*", "reads the scores that the manifest names"},
		},
		Subscribe: []Grant{
			{InboxPrefix(id) + ".>", "hears the answers to its own requests, under a prefix that is its own so that no other device can listen"},
			{DesiredHint(key), "hears that its manifest has changed; a hint and nothing more, since any device can forge one"},
			{DesiredHint(key) + ".*.*", "hears that one of its scores has changed; a hint too"},
			{CommandSubjects(id), "hears the commands to it"},
			{HeartbeatHint(key), "hears whether another agent has its device id; not where heartbeats are sent to, since whoever can send to itself can permit itself any answer"},
		},
		Responses:        Limit{1, "a command has one answer, and the reply subject of a command is nowhere else granted"},
		ResponseTTL:      CommandTimeout,
		MaxSubscriptions: Limit{16, "an agent needs a handful, and each costs the broker memory"},
		MaxPayload:       Limit{maxCommand, "the largest message of an agent is an answer with logs"},
	}
}

func operatorRole() Role {
	r := Role{Name: "operator", Account: AccountFleet, Who: "The operator in the cluster."}
	r.Publish, r.Subscribe = readGrants()
	r.Publish = append(r.Publish,
		Grant{DesiredState.Subjects(), "writes what each device shall run; nobody else may"},
		Grant{"$JS.API.STREAM.PURGE." + DesiredState.Stream(), "removes the keys of devices and deployments that are gone"},
		Grant{"$JS.API.STREAM.PURGE." + DeviceInfos.Stream(), "removes what a device wrote that is deleted"},
		Grant{"$JS.API.STREAM.PURGE." + DeviceStates.Stream(), "removes what a device wrote that is deleted, and deletion markers"},
		Grant{"$JS.API.STREAM.PURGE." + DeviceHeartbeats.Stream(), "removes what a device wrote that is deleted"},
	)
	return r
}

func adminRole() Role {
	r := Role{Name: "admin", Account: AccountFleet, Who: "A person who looks at the fleet with `kubectl fleet` or `nats`."}
	r.Publish, r.Subscribe = readGrants()
	for _, verb := range Verbs() {
		r.Publish = append(r.Publish, Grant{"device-commands.*." + string(verb), "asks a device, and changes nothing there"})
	}
	return r
}

// readGrants is enough for `nats kv ls`, `get` and `watch`.
func readGrants() (publish, subscribe []Grant) {
	publish = []Grant{
		{"$JS.API.INFO", "asks whether the account has streams at all"},
		{"$JS.API.STREAM.NAMES", "finds the buckets"},
		{"$JS.API.STREAM.LIST", "lists the buckets with their sizes"},
	}
	for _, b := range Buckets() {
		s := b.Stream()
		publish = append(publish,
			Grant{"$JS.API.STREAM.INFO." + s, "opens the bucket, and sees when its stream was made anew"},
			Grant{"$JS.API.STREAM.MSG.GET." + s, "reads a key from the leader, where Direct Get is not enough"},
			Grant{"$JS.API.DIRECT.GET." + s, "reads a key by its sequence"},
			Grant{"$JS.API.DIRECT.GET." + s + ".>", "reads a key by its subject"},
			Grant{"$JS.API.CONSUMER.CREATE." + s + ".>", "follows the bucket"},
			Grant{"$JS.API.CONSUMER.INFO." + s + ".*", "sees how far it has followed"},
			Grant{"$JS.API.CONSUMER.DELETE." + s + ".*", "stops following"},
			Grant{"$JS.API.CONSUMER.MSG.NEXT." + s + ".*", "asks for the next messages"},
			Grant{"$JS.FC." + s + ".>", "answers flow control, without which following stalls"},
		)
	}
	return publish, []Grant{{"_INBOX.>", "hears the answers to its requests; no device may write there"}}
}
