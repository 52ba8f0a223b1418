// Package fleet is the operator's pure core: events go in (resources seen, states
// and heartbeats observed, what the broker's store holds), effects come out
// (writes of desired state, status patches, device conditions). All decisions
// of the operator are made here.
//
// It never does I/O, never reads a clock, starts no goroutine and takes no lock:
// its caller holds one mutex around it and tells it the time. What it is told may
// come in any order and as often as it likes; the effects follow from the sum of
// it alone. It never takes anything back because something was absent from a
// list: only because a resource was seen deleting, or is certainly gone.
//
// The nouns: a device carries interned label pairs; the index files every
// selector under its two rarest terms and every device under its pairs; a record
// is what is known of one Deployment on one device (matched, stored, reported);
// counters of a Deployment move when a record's class moves, and are never
// recounted except by Audit.
package fleet
