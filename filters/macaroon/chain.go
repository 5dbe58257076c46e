package macaroon

import (
	"crypto/hmac"
	"crypto/sha256"
	"slices"
)

// keyGenerator is the key under which libmacaroons turns a root key of any length into the first
// key of the chain.
const keyGenerator = "macaroons-key-generator"

// Verify reports, in time that depends only on the lengths, whether rootKey made this macaroon
// and every caveat is in its place. A macaroon with a third-party caveat never verifies here,
// because discharges are not taken.
func (v *View) Verify(rootKey []byte) bool {
	if v.ThirdParty() {
		return false
	}
	sig := start(rootKey, v.ID)
	for _, c := range v.Caveats() {
		sig = mac(sig[:], c.ID)
	}
	return hmac.Equal(sig[:], v.Signature)
}

// Mint makes a macaroon with first-party caveats. It returns ErrBounds where Decode would.
func Mint(rootKey []byte, location, id string, caveats ...string) ([]byte, error) {
	if len(location)+len(id) > MaxSize {
		return nil, ErrBounds
	}
	data := []byte{version2}
	if location != "" {
		data = appendField(data, fieldLoc, []byte(location))
	}
	data = append(appendField(data, fieldID, []byte(id)), fieldEnd)
	return finish(data, start(rootKey, []byte(id)), caveats)
}

// Attenuate makes a macaroon that holds the given one's caveats and then more. It needs no key,
// and nobody can take a caveat away again. It returns Decode's errors.
func Attenuate(token []byte, caveats ...string) ([]byte, error) {
	v, err := Decode(token)
	if err != nil {
		return nil, err
	}
	data := slices.Clone(token[:len(token)-trailerLen])
	return finish(data, [sigLen]byte(v.Signature), caveats)
}

// finish appends caveats and the trailer to the beginning of a macaroon whose chain is at sig.
func finish(data []byte, sig [sigLen]byte, caveats []string) ([]byte, error) {
	for _, c := range caveats {
		if len(data)+len(c) > MaxSize {
			return nil, ErrBounds
		}
		data = append(appendField(data, fieldID, []byte(c)), fieldEnd)
		sig = mac(sig[:], []byte(c))
	}
	data = appendField(append(data, fieldEnd), fieldSig, sig[:])
	if _, err := Decode(data); err != nil { // too long, or too many caveats
		return nil, err
	}
	return data, nil
}

func start(rootKey, id []byte) [sigLen]byte {
	key := mac([]byte(keyGenerator), rootKey)
	return mac(key[:], id)
}

// mac is HMAC-SHA256 (RFC 2104) for keys of at most 64 bytes, as all of the chain's are. Not
// crypto/hmac, which allocates seven times a link: this runs on junk that anybody may send.
// TestMac holds it against crypto/hmac.
func mac(key, message []byte) [sigLen]byte {
	var pad [sha256.BlockSize]byte
	if copy(pad[:], key) < len(key) {
		panic("macaroon: an HMAC key is longer than a block")
	}
	for i := range pad {
		pad[i] ^= 0x36
	}
	inner := sha256.New()
	inner.Write(pad[:])
	inner.Write(message)
	for i := range pad {
		pad[i] ^= 0x36 ^ 0x5c
	}
	outer := sha256.New()
	outer.Write(pad[:])
	var sum [sigLen]byte
	outer.Write(inner.Sum(sum[:0]))
	outer.Sum(sum[:0])
	return sum
}
