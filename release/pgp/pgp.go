// Package pgp signs what apt, dnf and rpm check: they know no signatures but
// OpenPGP's. It reads a key that somebody made with gpg, and never makes or writes one.
package pgp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// PasswordVariable names the environment variable with the password of a key that has
// one.
const PasswordVariable = "REPO_KEY_PASSWORD"

// settings are the library's: SHA-256 and up, which distributions of today ask for.
var settings = &packet.Config{}

// Key is a private key that may sign.
type Key struct{ entity *openpgp.Entity }

// ReadKey reads the file of one private key, as `gpg --armor --export-secret-keys`
// writes it.
func ReadKey(path string) (Key, error) {
	file, err := os.Open(path)
	if err != nil {
		return Key{}, fmt.Errorf("reading the key of the repository: %w", err)
	}
	defer file.Close() // it was only read
	ring, err := openpgp.ReadArmoredKeyRing(file)
	if err != nil {
		return Key{}, fmt.Errorf("reading the key of the repository in %s: %w; `gpg --armor --export-secret-keys` writes one", path, err)
	}
	if len(ring) != 1 || ring[0].PrivateKey == nil {
		return Key{}, fmt.Errorf("%s must hold one private key", path)
	}
	if password := os.Getenv(PasswordVariable); password != "" {
		err = ring[0].DecryptPrivateKeys([]byte(password))
	} else if ring[0].PrivateKey.Encrypted {
		err = errors.New("it has a password, which belongs into $" + PasswordVariable)
	}
	if err != nil {
		return Key{}, fmt.Errorf("opening the key in %s: %w", path, err)
	}
	return Key{ring[0]}, nil
}

// Detached signs what is read; the signature is binary, as RPMs carry it.
func (k Key) Detached(content io.Reader) ([]byte, error) {
	var signature bytes.Buffer
	if err := openpgp.DetachSign(&signature, k.entity, content, settings); err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return signature.Bytes(), nil
}

// Armored signs like Detached, in text.
func (k Key) Armored(content []byte) ([]byte, error) {
	var signature bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&signature, k.entity, bytes.NewReader(content), settings); err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return append(signature.Bytes(), '\n'), nil
}

// Clear is a text with its signature around it.
func (k Key) Clear(text []byte) ([]byte, error) {
	key, found := k.entity.SigningKey(settings.Now())
	if !found {
		return nil, errors.New("the key has no part that may sign, or has expired")
	}
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, key.PrivateKey, settings)
	if err == nil {
		_, err = w.Write(text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return append(signed.Bytes(), '\n'), nil
}

// Public is what everybody may have: binary, as apt's keyrings are, and in text, as
// dnf imports it.
func (k Key) Public() (binary, text []byte, err error) {
	var raw, armored bytes.Buffer
	if err := k.entity.Serialize(&raw); err != nil {
		return nil, nil, fmt.Errorf("writing the public key: %w", err)
	}
	w, err := armor.Encode(&armored, openpgp.PublicKeyType, nil)
	if err == nil {
		_, err = w.Write(raw.Bytes())
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("writing the public key: %w", err)
	}
	return raw.Bytes(), []byte(strings.TrimSpace(armored.String()) + "\n"), nil
}
