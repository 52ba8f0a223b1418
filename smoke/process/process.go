// Package process runs the programs that a test environment consists of: each
// in a process group of its own, with its output in a file, and killed by the
// kernel when the test process dies. It never restarts a program and never
// reads what a program wrote, except to say why it ended.
package process

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Spec says which program to run and where its output goes.
type Spec struct {
	// Path of the program, or a name to look up in PATH.
	Path string
	Args []string
	// Env is added to the environment of this process.
	Env []string
	// Dir is the working directory; empty means that of this process.
	Dir string
	// Log is the file that standard output and error are appended to.
	Log string
	// Namespaces are the kinds that the program gets of its own, as clone(2) has
	// them (CLONE_NEWPID, …). One with its own process ids takes everything in
	// them along when it ends.
	Namespaces uintptr
}

// Process is one running program.
type Process struct {
	spec   Spec
	cmd    *exec.Cmd
	exited chan struct{}
}

// Start runs the program and returns once it is running.
func Start(spec Spec) (*Process, error) {
	log, err := os.OpenFile(spec.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", spec.Path, err)
	}
	defer log.Close()
	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = spec.Dir, log, log
	cmd.Env = append(os.Environ(), spec.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Cloneflags: spec.Namespaces}

	p := &Process{spec: spec, cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Pdeathsig fires when the parent thread ends, not the parent process:
		// this goroutine keeps its thread for as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in cmd.ProcessState
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Path, err)
	}
	return p, nil
}

// PID is the process id, also after the program has ended.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the program has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Stop asks the program to end, waits for the grace period, then kills its
// whole group. Without a grace period it is killed at once. It returns when the
// program has ended; a program that has ended before is no error.
func (p *Process) Stop(grace time.Duration) {
	if grace > 0 {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // may have ended already
		select {
		case <-p.exited:
		case <-time.After(grace):
		}
	}
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL) // the group may be gone already
	<-p.exited
}

// Failure describes a program that ended although it should run, with the last
// lines of its log; nil while it runs.
func (p *Process) Failure() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%s ended (%s); its last lines:\n%s", p.spec.Path, p.cmd.ProcessState, p.LogTail(15))
	default:
		return nil
	}
}

// LogTail returns the last lines of what the program wrote.
func (p *Process) LogTail(lines int) string {
	content, err := os.ReadFile(p.spec.Log)
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	all := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
