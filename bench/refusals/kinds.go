package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"svc-wallet/bench/hostile"
	"svc-wallet/bench/rig"
	"svc-wallet/filters"
)

// kind is one kind of request.
type kind struct {
	name    string
	refused bool
	status  int                      // of the answer; 0: any
	request func(conn, n int) []byte // the n-th of a connection
}

// kinds is what is measured.
type kinds struct {
	payment, longPayment, handshake kind
	list                            []kind

	token string // may do everything
	most  int    // bytes of a body
}

// newKinds makes kinds whose bodies have at most so many bytes.
func newKinds(token string, most int) (*kinds, error) {
	s := &kinds{token: token, most: most}
	var round [1 << 10]int // of payments on each connection, over all measurements
	pay := func(conn int, space string) []byte {
		round[conn]++
		return s.post("transfer", fmt.Sprintf("p-%d-%d", conn, round[conn]), space+transfer(conn, round[conn]))
	}
	space := strings.Repeat(" ", most-100)
	s.payment = kind{"payment", false, 200, func(conn, _ int) []byte { return pay(conn, "") }}
	s.longPayment = kind{"payment of the most bytes", false, 200, func(conn, _ int) []byte { return pay(conn, space) }}
	s.handshake = kind{name: "handshake"}
	s.accepted()
	s.heads()
	if err := s.tokens(); err != nil {
		return nil, err
	}
	s.payments()
	s.bodies()
	return s, nil
}

func (s *kinds) add(name string, status int, request func(conn, n int) []byte) {
	s.list = append(s.list, kind{name, status/100 != 2, status, request})
}

// fixed adds a kind whose requests are all alike.
func (s *kinds) fixed(name string, status int, request string) {
	s.add(name, status, func(int, int) []byte { return []byte(request) })
}

func transfer(conn, nonce int) string {
	return fmt.Sprintf(`{"from":"acc_%d","to":"acc_%d","asset":"ron","amount_minor":"1","nonce":%d}`, conn, conn+1, nonce)
}

func (s *kinds) post(op, key, body string, headers ...string) []byte {
	return post(op, s.token, key, body, headers...)
}

func post(op, token, key, body string, headers ...string) []byte {
	return fmt.Appendf(nil, "POST /v1/%s HTTP/1.1\r\nHost: rig\r\nAuthorization: Bearer %s\r\nIdempotency-Key: %s\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s", op, token, key, len(body), strings.Join(headers, ""), body)
}

func (s *kinds) get(path string, headers ...string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: rig\r\nAuthorization: Bearer " + s.token + "\r\n" + strings.Join(headers, "") + "\r\n"
}

// accepted is what is not refused, to hold the others against.
func (s *kinds) accepted() {
	s.fixed("accepted: cached balance", 200, s.get("/v1/balance?account=acc_1&asset=ron"))
	s.add("accepted: replay", 200, func(conn, _ int) []byte {
		return s.post("issue", fmt.Sprintf("i-%d", conn), issue(conn))
	})
}

// heads is what the head alone condemns.
func (s *kinds) heads() {
	body := transfer(1, 1)
	s.fixed("404 no route", 404, s.get("/v1/nope"))
	s.fixed("404 no route, least bytes", 404, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	s.fixed("405 method", 405, "PUT /v1/transfer HTTP/1.1\r\nHost: rig\r\n\r\n")
	s.fixed("400 length and chunked", 400, string(s.post("transfer", "k", body, "Transfer-Encoding: chunked\r\n")))
	s.fixed("400 two tokens", 400, s.get("/v1/balance?account=a&asset=ron", "Authorization: Bearer x\r\n"))
	s.fixed("400 body on GET", 400, s.get("/v1/balance?account=a&asset=ron", "Content-Length: 1\r\n")+"x")
	s.fixed("400 bad host", 400, "GET /v1/balance HTTP/1.1\r\nHost: a@b\r\n\r\n")
	s.fixed("400 not HTTP", 400, "nonsense\r\n\r\n")
	s.fixed("400 header of 9 KiB", 400, s.get("/v1/balance?account=a&asset=ron", "X-A: "+strings.Repeat("a", 9<<10)+"\r\n"))
	s.fixed("400 query", 400, s.get("/v1/balance?account=a"))
	s.fixed("400 unfit account", 400, s.get("/v1/balance?account=-&asset=ron"))
	s.fixed("400 query of 4 KiB of escapes", 400, s.get("/v1/balance?account="+strings.Repeat("%41", 4<<10/3)+"&asset=ron"))
	s.fixed("413 declared length", 413, "POST /v1/transfer HTTP/1.1\r\nHost: rig\r\nContent-Type: application/json\r\nContent-Length: 2000000\r\nAuthorization: Bearer "+s.token+"\r\n\r\n")
	s.fixed("415 media type", 415, "POST /v1/transfer HTTP/1.1\r\nHost: rig\r\nContent-Length: 0\r\n\r\n")
	s.fixed("415 encoding", 415, string(s.post("transfer", "k", body, "Content-Encoding: br\r\n")))
	s.fixed("400 key", 400, string(s.post("transfer", "k k", body)))
}

// tokens is what authentication and scope refuse.
func (s *kinds) tokens() error {
	long := make([]string, 12)
	for i := range long {
		long[i] = "accounts = " + strings.Repeat(strings.Repeat("a", 60)+",", 5) + "b"
	}
	fat, err := filters.AttenuateToken(s.token, long)
	if err != nil {
		return err
	}
	reader, err := filters.AttenuateToken(s.token, []string{"actions = read"})
	if err != nil {
		return err
	}
	old, err := filters.AttenuateToken(s.token, []string{"exp = 1"})
	if err != nil {
		return err
	}
	narrow, err := filters.AttenuateToken(s.token, []string{"accounts = other"})
	if err != nil {
		return err
	}
	body := transfer(1, 1)
	for _, t := range []struct{ name, token string }{
		{"401 no token", ""},
		{"401 junk of 100 bytes", strings.Repeat("a", 100)},
		{"401 junk of 5 KiB", strings.Repeat("a", 5<<10)},
		{"401 wrong signature", forge(s.token)},
		{"401 wrong signature, 16 caveats of 4 KiB", forge(fat)},
		{"401 expired", old},
	} {
		s.fixed(t.name, 401, string(post("transfer", t.token, "k", body)))
	}
	s.fixed("401 no token, to read", 401, "GET /v1/balance?account=a&asset=ron HTTP/1.1\r\nHost: rig\r\n\r\n")
	s.fixed("403 action", 403, string(post("transfer", reader, "k", body)))
	s.fixed("403 account", 403, string(post("transfer", narrow, "k", body)))
	s.fixed("403 account, 16 caveats of 4 KiB", 403, string(post("transfer", fat, "k", body)))
	s.add("403 action, each token a new one", 403, func(conn, n int) []byte {
		token, _ := filters.AttenuateToken(reader, []string{fmt.Sprintf("sub = s%d-%d", conn, n)}) // as reader itself
		return post("transfer", token, "k", body)
	})
	s.add("403 account, each token a new one of 4 KiB", 403, func(conn, n int) []byte {
		token, _ := filters.AttenuateToken(s.token, append(long[:11:11], fmt.Sprintf("sub = s%d-%d", conn, n)))
		return post("transfer", token, "k", body)
	})
	for _, b := range hostile.Gzip(s.most)[:1] {
		s.fixed("403 action, gzip of "+b.Name, 403, string(post("transfer", reader, "k", string(b.Data), "Content-Encoding: gzip\r\n")))
		s.fixed("401 no token, gzip of "+b.Name, 401, string(post("transfer", "", "k", string(b.Data), "Content-Encoding: gzip\r\n")))
	}
	daily, err := filters.AttenuateToken(s.token, []string{"daily = 1"})
	s.add("403 daily ceiling, by the ledger", 403, func(conn, n int) []byte {
		return post("transfer", daily, fmt.Sprintf("d-%d-%d", conn, n),
			fmt.Sprintf(`{"from":"acc_%d","to":"x","asset":"ron","amount_minor":"2","nonce":%d}`, conn, 1<<40+n))
	})
	return err
}

// forge changes the token's signature.
func forge(token string) string {
	b := []byte(token)
	b[len(b)-8] ^= 1
	return string(b)
}

// payments is what is refused for the payment itself.
func (s *kinds) payments() {
	of := func(name string, status int, body func(conn, n int) string) {
		of := len(s.list)
		s.add(name, status, func(conn, n int) []byte {
			return s.post("transfer", fmt.Sprintf("k%d-%d-%d", of, conn, n), body(conn, n))
		})
	}
	of("403 amount", 403, func(conn, _ int) string {
		return fmt.Sprintf(`{"from":"acc_%d","to":"x","asset":"ron","amount_minor":"340282366920938463463374607431768211455","nonce":1}`, conn)
	})
	of("409 funds", 409, func(conn, n int) string {
		return fmt.Sprintf(`{"from":"poor_%d","to":"x","asset":"ron","amount_minor":"1","nonce":%d}`, conn, n)
	})
	of("409 funds, each account a new one", 409, func(conn, n int) string {
		return fmt.Sprintf(`{"from":"poor_%d_%d","to":"x","asset":"ron","amount_minor":"1","nonce":1}`, conn, n)
	})
	of("409 nonce spent", 409, func(conn, _ int) string { return transfer(conn, 1) })
	var zipped [1 << 10]string // by connection, each made by its own
	s.add("409 nonce spent, gzip", 409, func(conn, n int) []byte {
		if zipped[conn] == "" {
			zipped[conn] = string(hostile.Member([]byte(transfer(conn, 1))))
		}
		return s.post("transfer", fmt.Sprintf("z-%d-%d", conn, n), zipped[conn], "Content-Encoding: gzip\r\n")
	})
	of("409 nonce spent, one account for all", 409, func(int, int) string { return transfer(0, 1) })
	of("409 nonce over the gap", 409, func(conn, _ int) string {
		return fmt.Sprintf(`{"from":"acc_%d","to":"x","asset":"ron","amount_minor":"1","nonce":18446744073709551615}`, conn)
	})
	s.add("422 key of another request", 422, func(conn, _ int) []byte {
		return s.post("issue", fmt.Sprintf("i-%d", conn), strings.Replace(issue(conn), "ron", "eur", 1))
	})
	s.fixed("404 transaction", 404, s.get("/v1/tx/tx_01ARZ3NDEKTSV4RRFFQ69G5FAV"))
	s.fixed("404 payment of a key", 404, s.get("/v1/tx?account=acc_1&idem=nobody"))
	s.add("200 balance of a new account each", 200, func(conn, n int) []byte {
		return []byte(s.get(fmt.Sprintf("/v1/balance?account=new_%d_%d&asset=ron", conn, n)))
	})
}

// bodies is what is refused for its body.
func (s *kinds) bodies() {
	for _, b := range hostile.JSON(s.most) {
		s.fixed("JSON: "+b.Name, 400, string(s.post("transfer", "k", string(b.Data))))
	}
	for _, b := range hostile.JSON(1 << 10)[:3] {
		s.fixed("JSON of 1 KiB: "+b.Name, 400, string(s.post("transfer", "k", string(b.Data))))
	}
	for _, b := range hostile.Gzip(s.most) {
		s.fixed("gzip: "+b.Name, 0, string(s.post("transfer", "k", string(b.Data), "Content-Encoding: gzip\r\n")))
		s.list[len(s.list)-1].refused = true
	}
	var chunked bytes.Buffer
	for range 1 << 10 {
		chunked.WriteString("1\r\n \r\n")
	}
	s.fixed("400 a thousand chunks of a byte", 400, "POST /v1/transfer HTTP/1.1\r\nHost: rig\r\nAuthorization: Bearer "+s.token+
		"\r\nIdempotency-Key: k\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"+chunked.String()+"0\r\n\r\n")
}

func issue(conn int) string {
	return fmt.Sprintf(`{"to":"acc_%d","asset":"ron","amount_minor":"1000000000","nonce":1}`, conn)
}

// prepare gives each connection's account enough for all its payments, and spends its first nonce.
func (s *kinds) prepare(ctx context.Context, r *rig.Rig, clients int) error {
	for i := range clients {
		c := &client{rig: r, tally: new(tally), number: i}
		fund := kind{"issue", false, 200, func(conn, _ int) []byte { return s.post("issue", fmt.Sprintf("i-%d", conn), issue(conn)) }}
		err := c.do(ctx, &fund)
		if err == nil {
			err = c.do(ctx, &s.payment)
		}
		c.close()
		if err != nil {
			return err
		}
	}
	return nil
}
