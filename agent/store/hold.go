package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nationtech/harmony-fleet/agent/hold"
)

// LoadHold reads what the device's owner asked for; it is zero when there is nothing.
// A damaged file is kept aside, and ErrDamaged names it.
func (s *Store) LoadHold() (hold.Hold, error) {
	data, err := s.read(holdFile)
	if data == nil || err != nil {
		return hold.Hold{}, err
	}
	var h hold.Hold
	if err = json.Unmarshal(data, &h); err == nil {
		return h.Plain(), nil
	}
	return hold.Hold{}, s.setAside(holdFile, err)
}

// SaveHold makes it durable before it returns, in place of one before it.
func (s *Store) SaveHold(h hold.Hold) error { return s.save(holdFile, h) }

// RemoveHold forgets the hold, which may be gone already; only what is there and is
// not h is left.
func (s *Store) RemoveHold(h hold.Hold) error {
	found, err := s.LoadHold()
	if err != nil || found != h {
		return err
	}
	if err := os.Remove(filepath.Join(s.dir, holdFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ending the hold: %w", err)
	}
	return syncDir(s.dir)
}
