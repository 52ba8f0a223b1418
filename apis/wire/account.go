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
}

// Accounts is the account layout, the same for the embedded broker, the chart
// and the callout.
func Accounts() []Account {
	toFleet := []string{
		DeviceInfos.Subjects(),
		DeviceStates.Subjects(),
		DeviceHeartbeats.Subjects(),
		DesiredState.DirectGet(">"),
	}
	fleet := Account{Name: AccountFleet, JetStream: true}
	devices := Account{Name: AccountDevices}
	for _, subject := range toFleet {
		fleet.Exports = append(fleet.Exports, Exchange{Account: AccountDevices, Subject: subject})
		devices.Imports = append(devices.Imports, Exchange{Account: AccountFleet, Subject: subject})
	}
	hints := DesiredHint(">")
	fleet.Exports = append(fleet.Exports, Exchange{Account: AccountDevices, Subject: hints, Stream: true})
	devices.Imports = append(devices.Imports, Exchange{Account: AccountFleet, Subject: hints, Stream: true})
	devices.Exports = []Exchange{{Account: AccountFleet, Subject: AllCommands}}
	fleet.Imports = []Exchange{{Account: AccountDevices, Subject: AllCommands}}
	auth, system := Account{Name: AccountAuth}, Account{Name: AccountSystem}
	for _, subject := range []string{DeviceConnections, CutConnections} {
		system.Exports = append(system.Exports, Exchange{Account: AccountAuth, Subject: subject})
		auth.Imports = append(auth.Imports, Exchange{Account: AccountSystem, Subject: subject})
	}
	return []Account{fleet, devices, auth, system}
}
