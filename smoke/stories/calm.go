package stories

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

const (
	// calmShare of a processor is what an agent in trouble must not use up, which it is
	// far below: one that tries again without a pause takes all of one.
	calmShare = 0.25
	// calmSteps are how many it may begin meanwhile: those of a change, and some that fail
	// and are tried again after ever longer pauses.
	calmSteps = 40
)

// calm has something happen, and is an error when the agent was busy meanwhile, or ended.
func (m *machine) calm(happen func() error) error {
	begin := time.Now()
	before, err := m.spent()
	if err != nil {
		return err
	}
	if err := happen(); err != nil {
		return err
	}
	after, err := m.spent()
	if err != nil {
		return err
	}
	used, steps := after.processor-before.processor, after.steps-before.steps
	// What a second takes no noise of the machine makes less: it stretches both.
	if passed := time.Since(begin) + time.Second; used.Seconds() > calmShare*passed.Seconds() || steps > calmSteps {
		return fmt.Errorf("the agent used %s of a processor and began %d steps in %s", used, steps, passed)
	}
	return nil
}

// spending is what the agent has done since it was started.
type spending struct {
	processor time.Duration
	steps     int
}

// tick is the unit of processor time in /proc, on all that Go runs on.
const tick = 10 * time.Millisecond

func (m *machine) spent() (sum spending, err error) {
	if err := m.agent.Failure(); err != nil {
		return sum, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.agent.PID()))
	if err != nil {
		return sum, fmt.Errorf("reading what the agent has spent: %w", err)
	}
	// 123 (name) R …: the 14th and 15th are the time in its own mode and the kernel's.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	for _, field := range fields[11:13] {
		ticks, err := strconv.Atoi(string(field))
		if err != nil {
			return sum, fmt.Errorf("reading what the agent has spent: %w", err)
		}
		sum.processor += time.Duration(ticks) * tick
	}
	log, err := os.ReadFile(m.path("agent.log"))
	sum.steps = bytes.Count(log, []byte("step begins"))
	return sum, err
}
