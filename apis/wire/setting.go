package wire

// Setting is one setting of the stream behind a bucket, named and valued as the
// server has it in JSON, and the reason for it.
type Setting struct {
	Name  string
	Value any
	Why   string
}

// Settings is the whole configuration of the stream behind the bucket, but for
// its name and description. A setting that is off is there when a device could
// do harm if it were on.
func (b Bucket) Settings() []Setting {
	s := []Setting{
		{"subjects", []string{b.Subjects()}, "every key of the bucket, and nothing else"},
		{"max_msgs_per_subject", 1, "a key has one value; a history would only cost"},
		{"retention", "limits", "reading a key does not remove it"},
		{"discard", "new", "a full bucket refuses new keys rather than forget old ones"},
		{"max_msgs", -1, "max_bytes bounds the bucket"},
		{"max_bytes", b.MaxBytes, "sized for 100,000 devices"},
		{"max_msg_size", b.MaxMessageSize, "the largest value with its headers"},
		{"max_consumers", b.MaxConsumers, "the operator's, and people's who look; a device has none"},
		{"duplicate_window", DuplicateWindow, "nothing uses message ids, and a device could poison another's write with a guessed one: the shortest that the server takes"},
		{"deny_delete", true, "nobody deletes single messages"},
		{"allow_direct", true, "devices read by Direct Get, which permissions can limit to a key"},
		{"allow_rollup_hdrs", false, "with a header, a publisher could wipe the keys of others"},
		{"storage", "file", "what is acknowledged outlives a restart"},
		{"num_replicas", 1, "more is the installation's choice"},
	}
	if b.AtomicPublish {
		s = append(s, Setting{"allow_atomic", true, "a manifest and its scores are written together; no device may write here"})
	} else {
		s = append(s, Setting{"allow_atomic", false, "a device could hold the stream's 50 batch slots"})
	}
	if b.TTL {
		s = append(s, Setting{"allow_msg_ttl", true, "deletion markers expire"})
	}
	if b.MaxAge > 0 {
		s = append(s, Setting{"max_age", b.MaxAge, "an old sign of life says nothing"})
	}
	if b.LazySync {
		s = append(s, Setting{"persist_mode", "async", "acknowledged before it is on the disk: what a power cut loses is sent again soon"})
	}
	if b.Republish != "" {
		s = append(s, Setting{"republish", map[string]string{"src": b.Subjects(), "dest": b.Republish + ".>"},
			"each write is sent out once more, so that devices hear of it without a consumer"})
	}
	return s
}
