// Command mint makes a capability with gopkg.in/macaroon.v2, and narrows it.
package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log"

	"gopkg.in/macaroon.v2"
)

func main() {
	key, err := hex.DecodeString("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	if err != nil {
		log.Fatal(err)
	}
	m, err := macaroon.New(key, []byte("v1:k1:shop-7"), "svc-wallet", macaroon.V2)
	if err != nil {
		log.Fatal(err)
	}
	tell(m, "aud = svc-wallet", "exp = 4102444800", "actions = read,transfer", "accounts = acc_1,team_*")
	tell(m, "max_amount = 500", "assets = ron") // this step needs no key
}

// tell adds the caveats, and prints the token.
func tell(m *macaroon.Macaroon, caveats ...string) {
	for _, c := range caveats {
		if err := m.AddFirstPartyCaveat([]byte(c)); err != nil {
			log.Fatal(err)
		}
	}
	data, err := m.MarshalBinary()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(base64.RawURLEncoding.EncodeToString(data))
}
