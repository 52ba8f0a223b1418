package bus

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// due returns the subjects and payloads that are due, and the wait.
func due(o *outbox, now time.Time) (map[string]string, time.Duration) {
	letters, wait := o.due(now)
	found := map[string]string{}
	for _, l := range letters {
		found[l.subject] = string(l.payload)
	}
	return found, wait
}

func TestOutbox(t *testing.T) {
	now := time.Unix(1000, 0)
	one, two := letter{"a", []byte("1")}, letter{"a", []byte("2")}
	gone := letter{"a", nil}
	cases := map[string]struct {
		reason string
		do     func(*outbox)
		want   map[string]string
		wait   time.Duration
	}{
		"LastValue": {
			reason: "only the last value of a subject is sent",
			do:     func(o *outbox) { o.put("a", one.payload); o.put("a", two.payload) },
			want:   map[string]string{"a": "2"}, wait: time.Hour,
		},
		"Sent": {
			reason: "an acknowledged value is sent no more, nor when it is put again",
			do:     func(o *outbox) { o.put("a", one.payload); o.sent(one, 1); o.put("a", one.payload) },
			want:   map[string]string{}, wait: time.Hour,
		},
		"Replaced": {
			reason: "the acknowledgement of an old value does not count for the new one",
			do:     func(o *outbox) { o.put("a", one.payload); o.put("a", two.payload); o.sent(one, 1) },
			want:   map[string]string{"a": "2"}, wait: time.Hour,
		},
		"Reassert": {
			reason: "a new connection sends what older ones sent, and not what it sent itself",
			do: func(o *outbox) {
				o.put("a", one.payload)
				o.sent(one, 1)
				o.put("b", []byte("new"))
				o.sent(letter{"b", []byte("new")}, 2)
				o.reassert(2)
			},
			want: map[string]string{"a": "1"}, wait: time.Hour,
		},
		"Deleted": {
			reason: "a deletion is sent like a value",
			do:     func(o *outbox) { o.put("a", one.payload); o.sent(one, 1); o.put("a", nil) },
			want:   map[string]string{"a": ""}, wait: time.Hour,
		},
		"DeletionForgotten": {
			reason: "an acknowledged deletion is not repeated for ever",
			do:     func(o *outbox) { o.put("a", nil); o.sent(gone, 1); o.reassert(2) },
			want:   map[string]string{}, wait: time.Hour,
		},
		"Failed": {
			reason: "what failed waits, and does not hold up the others",
			do: func(o *outbox) {
				o.put("a", one.payload)
				o.put("b", two.payload)
				o.failed(one, func(int) time.Time { return now.Add(time.Second) })
			},
			want: map[string]string{"b": "2"}, wait: time.Second,
		},
		"FailedAndReplaced": {
			reason: "a new value does not wait for the failure of the old one",
			do: func(o *outbox) {
				o.put("a", one.payload)
				o.put("a", two.payload)
				o.failed(one, func(int) time.Time { return now.Add(time.Second) })
			},
			want: map[string]string{"a": "2"}, wait: time.Hour,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			o := newOutbox()
			o.hold(false)
			tc.do(&o)
			got, wait := due(&o, now)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s\ndue(): -want +got\n%s", tc.reason, diff)
			}
			if wait != tc.wait {
				t.Errorf("%s\ndue(): wait %s, want %s", tc.reason, wait, tc.wait)
			}
		})
	}
}

func TestOutboxCountsFailures(t *testing.T) {
	o := newOutbox()
	o.put("a", []byte("1"))
	for want := 1; want <= 3; want++ {
		got := o.failed(letter{"a", []byte("1")}, func(failures int) time.Time {
			if failures != want-1 {
				t.Errorf("failure %d: the delay is drawn for %d", want, failures)
			}
			return time.Time{}
		})
		if got != want {
			t.Errorf("failed() = %d, want %d", got, want)
		}
	}
}

func TestEach(t *testing.T) {
	var most, now, done atomic.Int32
	err := each(make([]int, 50), func(int) error {
		most.Store(max(most.Load(), now.Add(1)))
		time.Sleep(time.Millisecond)
		now.Add(-1)
		if done.Add(1) == 20 {
			return errors.New("the twentieth")
		}
		return nil
	})
	if err == nil || done.Load() != 50 || most.Load() > inFlight {
		t.Errorf("each(): %v, %d done, %d at a time", err, done.Load(), most.Load())
	}
}
