// Package store keeps the agent's files on the device's disk: the desired state,
// from which workloads start after a power cut without a network, which versions
// of secrets are in use, which images were pulled, a hold, and the report that
// `fleet-agent status` reads. A file is written whole, synced and renamed into place, so
// that a reader finds the old one or the new one and nothing in between.
//
// No file has the value of a secret. It never decides what a file's content means:
// a file that cannot be read is an error and never an empty desired state.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	desiredFile = "desired.json"
	holdFile    = "hold.json"
	imagesFile  = "images.json"
	reportFile  = "report.json"
	secretsFile = "secrets.json"
	// damaged is appended to the name of a file that could not be read.
	damaged = ".damaged"
)

// Store is one state directory. Its methods may be called from several
// goroutines as long as no two of them write the same file.
type Store struct{ dir string }

// Open makes the directory, with mode 0700, when it is missing.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the state directory: %w", err)
	}
	return &Store{dir: dir}, nil
}

// read is the content of a file, nil when there is none.
func (s *Store) read(name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(s.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the agent's state: %w", err)
	}
	return data, nil
}

// setAside keeps a file that cannot be read for people to look at, and says where it is
// in an ErrDamaged.
func (s *Store) setAside(name string, why error) error {
	path := filepath.Join(s.dir, name)
	if err := os.Rename(path, path+damaged); err != nil {
		return fmt.Errorf("keeping the damaged %s aside: %w", path, err)
	}
	return fmt.Errorf("%w, kept as %s: %w", ErrDamaged, path+damaged, why)
}

// save writes value as a JSON file of mode 0600. After an error the old file is
// still there and whole.
func (s *Store) save(name string, value any) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing %s: %w", filepath.Join(s.dir, name), err)
		}
	}()
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	temporary := filepath.Join(s.dir, name+".tmp")
	if err := writeSynced(temporary, data); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(s.dir, name)); err != nil {
		return err
	}
	return syncDir(s.dir)
}

func writeSynced(path string, data []byte) (err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, file.Close()); err != nil {
			// Left behind it would hold space on a disk that may be full.
			err = errors.Join(err, os.Remove(path))
		}
	}()
	if _, err := file.Write(data); err != nil {
		return err
	}
	return file.Sync()
}

// syncDir makes a rename durable.
func syncDir(path string) (err error) {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return dir.Sync()
}
