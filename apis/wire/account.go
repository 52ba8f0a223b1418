package wire

// Names of the broker's accounts.
const (
	// AccountFleet holds every stream; the operator and people connect to it.
	AccountFleet = "FLEET"
	// AccountDevices holds the devices and no stream. In one shared account a
	// device could have the server write into another device's keys through the
	// reply subject of an acknowledgement.
	AccountDevices = "DEVICES"
	// AccountAuth holds the auth callout and nothing else: what it hears has the
	// tokens of everybody.
	AccountAuth = "AUTH"
	// AccountSystem is the broker's own; the callout asks it to cut connections.
	AccountSystem = "SYS"
)

// Subjects of the broker's system account that the callout may use.
const (
	// DeviceConnections lists the connections of devices, on every server.
	DeviceConnections = "$SYS.REQ.ACCOUNT." + AccountDevices + ".CONNZ"
	// CutConnections is CutConnection of any server.
	CutConnections = "$SYS.REQ.SERVER.*.KICK"
)

// CutConnection is the subject on which a server is asked to end a connection.
func CutConnection(server string) string { return "$SYS.REQ.SERVER." + server + ".KICK" }

// Account is one account of the broker: what it lends to another and takes from
// it.
type Account struct {
	Name      string
	JetStream bool
	// Why the account is there.
	Why string
	// Exports are lent to the account that they name alone.
	Exports []Exchange
	// Imports are taken from the account that they name, under the same subject.
	Imports []Exchange
}

// Exchange is one subject that crosses between the two accounts: as a service
// (requests go in, answers come back) or, with Stream, as messages that go out.
type Exchange struct {
	Account string
	Subject string
	Stream  bool
	// Why it crosses.
	Why string
}

// Accounts is the account layout, the same for the embedded broker, the chart
// and the callout.
func Accounts() []Account {
	lent := []Exchange{
		{Subject: DeviceInfos.Subjects(), Why: "agents write what their devices are"},
		{Subject: DeviceStates.Subjects(), Why: "agents write how their deployments do"},
		{Subject: DeviceHeartbeats.Subjects(), Why: "agents give signs of life"},
		{Subject: DesiredState.DirectGet(">"), Why: "agents read what they shall run, each key by its own subject, which permissions can tell apart"},
		{Subject: DesiredHint(">"), Stream: true, Why: "agents hear that something they read has changed"},
		{Subject: HeartbeatHint(">"), Stream: true, Why: "an agent hears whether another one has its device id"},
	}
	fleet := Account{Name: AccountFleet, JetStream: true,
		Why: "Holds every stream; the operator and people connect to it, and devices never do."}
	devices := Account{Name: AccountDevices,
		Why: "Holds the devices and no stream: in one shared account a device could have the server write into another device's keys, through the reply subject of an acknowledgement."}
	auth := Account{Name: AccountAuth,
		Why: "Holds the auth callout and nothing else: what it hears has the tokens of everybody."}
	lend(&fleet, &devices, lent...)
	lend(&devices, &fleet, Exchange{Subject: AllCommands, Why: "people ask devices for a sign of life or for logs"})
	system := Account{Name: AccountSystem,
		Why: "The broker's own; nobody connects to it, and it lends what cuts a revoked device off."}
	lend(&system, &auth,
		Exchange{Subject: DeviceConnections, Why: "the callout finds the connections of a revoked device, on every server"},
		Exchange{Subject: CutConnections, Why: "the callout ends them"})
	return []Account{fleet, devices, auth, system}
}

// lend exports from one account what the other imports.
func lend(from, to *Account, lent ...Exchange) {
	for _, e := range lent {
		e.Account = to.Name
		from.Exports = append(from.Exports, e)
		e.Account = from.Name
		to.Imports = append(to.Imports, e)
	}
}
