// Package wire is everything that operator and agent say to each other through
// NATS: the buckets and their limits, the keys, the subjects, the payloads with
// their canonical encodings and strict decodings, the account layout of the
// broker, and what each role may publish and subscribe to.
//
// Who owns what:
//
//   - desired-state, key <device>.<namespace>.<name>: a score. Written by the
//     operator, read by the device.
//   - desired-state, key <device>: the device's Manifest, which names every key
//     that is valid for the device, signed by the operator (SignedManifest).
//     Written in one atomic batch with them.
//   - device-info, key <device>: a DeviceInfo. Written by the device.
//   - device-state, key <device>.<namespace>.<name>: a DeviceState. Written by
//     the device.
//   - device-heartbeat, key <device>: a Heartbeat. Written by the device.
//
// The package is plain values and pure functions. It opens no connection and
// imports no NATS library, so that every side, the chart's generator and the
// auth callout use the same definitions.
package wire
