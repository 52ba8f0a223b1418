// Package bus is the operator's side of NATS: it connects and stays connected,
// checks that the broker is fit for the fleet, follows buckets, writes desired
// state in atomic batches and sends commands to devices. It is the only package
// of the operator that imports the NATS client. It never looks into a payload,
// and it never creates or changes a stream.
package bus
