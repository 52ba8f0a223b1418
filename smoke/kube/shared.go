package kube

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
)

// shared is the control plane of a test process. It is process-wide because
// only TestMain outlives the tests that use it.
var shared struct {
	sync.Mutex
	inMain bool
	plane  *ControlPlane
	err    error
}

// RunTests runs the tests of a package and afterwards stops the control plane
// that Shared may have started; TestMain returns its result to os.Exit.
func RunTests(m *testing.M) (code int) {
	shared.inMain = true
	code = m.Run()
	if shared.plane != nil {
		if err := shared.plane.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// Shared returns the control plane that all tests of a package use; the first
// call starts it. The package's TestMain must use RunTests. Tests keep apart by
// namespaces, and a test that stops the API server must not run in parallel.
func Shared(tb testing.TB) *ControlPlane {
	tb.Helper()
	shared.Lock()
	defer shared.Unlock()
	if !shared.inMain {
		tb.Fatal("kube.Shared needs a TestMain that calls kube.RunTests")
	}
	if shared.plane == nil && shared.err == nil {
		// Not the context of this test: the control plane outlives it.
		shared.plane, shared.err = Start(context.Background(), Options{})
	}
	if shared.err != nil {
		tb.Fatal(shared.err)
	}
	return shared.plane
}
