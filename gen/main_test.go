package main

import "testing"

// TestNoDrift: the generated files on the disk are what their sources say now.
func TestNoDrift(t *testing.T) {
	files, err := generate("..")
	if err != nil {
		t.Fatal(err)
	}
	drift, err := files.Drift("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range drift {
		t.Errorf("run `make generate`: %s", d)
	}
	if len(files) < 5 {
		t.Errorf("generated only %v", files.Paths())
	}
}
