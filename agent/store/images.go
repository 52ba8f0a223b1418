package store

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/nationtech/harmony-fleet/agent/images"
	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// imageJSON is an entry of the file.
type imageJSON struct {
	Name string `json:"name"`
	ID   string `json:"id"`
	// Deployment is "namespace.name".
	Deployment string    `json:"deployment"`
	Service    string    `json:"service"`
	Unused     time.Time `json:"unused,omitzero"`
}

// LoadImages reads which images the agent pulled; none when there is no file. A
// damaged one is kept aside, and ErrDamaged names it: what it named stays on the disk.
func (s *Store) LoadImages() ([]images.Image, error) {
	data, err := s.read(imagesFile)
	if data == nil || err != nil {
		return nil, err
	}
	all, err := decodeImages(data)
	if err != nil {
		return nil, s.setAside(imagesFile, err)
	}
	return all, nil
}

func decodeImages(data []byte) (all []images.Image, err error) {
	var file []imageJSON
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	for _, entry := range file {
		id, err := wire.ParseDeploymentToken(entry.Deployment)
		if err != nil {
			return nil, err
		}
		if entry.Name == "" || entry.ID == "" {
			return nil, errors.New("name or id of an image is missing")
		}
		key := reconcile.Key{Deployment: id, Service: entry.Service}
		all = append(all, images.Image{Name: entry.Name, ID: entry.ID, For: key, Unused: entry.Unused.UTC()})
	}
	return all, nil
}

// SaveImages makes them durable before it returns.
func (s *Store) SaveImages(all []images.Image) error {
	file := []imageJSON{}
	for _, i := range all {
		file = append(file, imageJSON{Name: i.Name, ID: i.ID, Deployment: i.For.Deployment.Token(), Service: i.For.Service, Unused: i.Unused})
	}
	return s.save(imagesFile, file)
}
