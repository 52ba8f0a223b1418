package oidc

import (
	"crypto"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
)

// Token signs the claims of anyone, a person for example, with the current key.
// It adds iss, iat, nbf, exp and jti where they are missing; a claim that is nil
// is left out of the token.
func (p *Provider) Token(claims map[string]any) (string, error) {
	all := p.newClaims()
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	return p.SignWith(nil, all)
}

// SignWith signs exactly these claims with the current key, whatever the header
// says: its fields replace those of an honest header, and one that is nil is left
// out. Claims in a json.RawMessage may be such as no map can be, with a name twice
// for example.
func (p *Provider) SignWith(header map[string]any, claims any) (string, error) {
	id, key := p.SigningKey()
	all := map[string]any{"alg": "RS256", "kid": id, "typ": "JWT"}
	maps.Copy(all, header)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	return Sign(all, payload, key)
}

// Sign makes a token of any header and payload. The kind of the key alone decides
// how it is signed: *rsa.PrivateKey by RS256, []byte by HS256, nil not at all. It
// is for forgeries, whose header says something else.
func Sign(header map[string]any, payload []byte, key any) (string, error) {
	head, err := json.Marshal(header)
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	signed := encode(head) + "." + encode(payload)
	var signature []byte
	switch key := key.(type) {
	case nil:
	case []byte:
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(signed))
		signature = mac.Sum(nil)
	case *rsa.PrivateKey:
		digest := sha256.Sum256([]byte(signed))
		signature, err = rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:])
	default:
		err = fmt.Errorf("no way to sign with a %T", key)
	}
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	return signed + "." + encode(signature), nil
}

func encode(part []byte) string { return base64.RawURLEncoding.EncodeToString(part) }
