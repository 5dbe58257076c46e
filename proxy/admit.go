package proxy

import (
	"bytes"

	"github.com/valyala/fasthttp"

	"svc-wallet/filters"
	"svc-wallet/wallet"
)

// Why a request is refused before any filter sees it. The texts go to the client.
const (
	doubtVersion   = "the HTTP version must be 1.1 or 1.0"
	doubtTarget    = "the request target is not a plain path: it must be free of escapes, empty or dot segments and fragments"
	doubtTwoHosts  = "the host of the request target differs from Host"
	doubtHost      = "Host must be there, and be a host name or an address, and a port from 0 to 65535 if any"
	doubtBareLF    = "a line of the header ends in a bare LF"
	doubtFold      = "a header is folded over several lines"
	doubtName      = "the name of a header is malformed or imitates another one"
	doubtDuplicate = "a header that may occur once occurs twice"
	doubtLength    = "Content-Length and Transfer-Encoding exclude each other"
	doubtHead      = "the header is not well-formed"
	doubtDigits    = "Content-Length must be a decimal integer"
	doubtOld       = "HTTP/1.0 has no Transfer-Encoding"
	doubtChunks    = "the body is not well-formed chunks, or ends in a trailer"
	doubtEncoding  = "the only Transfer-Encoding served is chunked"
	doubtBody      = "a GET request has no body"
	doubtExpect    = "the only expectation served is 100-continue"

	unfitQuery  = "the query of a balance is exactly account and asset, that of a payment account and idem, each once; other routes have none"
	unfitEscape = "a percent sign in the query is not followed by two hex digits"
	unfitMinSeq = "X-Min-Ledger-Seq must be a decimal integer of 64 bits"
)

// target splits the raw request target. doubt says why it is not plain.
func target(ctx *fasthttp.RequestCtx, host []byte) (path, query []byte, doubt string) {
	path = ctx.Request.Header.RequestURI()
	if len(path) > 0 && path[0] != '/' { // absolute form: RFC 9112 §3.2.2
		_, rest, _ := bytes.Cut(path, []byte("://"))
		end := bytes.IndexAny(rest, "/?")
		if end < 0 {
			end = len(rest)
		}
		if !bytes.EqualFold(rest[:end], host) || bytes.IndexByte(host, '@') >= 0 { // userinfo: RFC 9110 §4.2.4
			return nil, nil, doubtTwoHosts
		}
		if !isHost(host) {
			return nil, nil, doubtHost
		}
		path = rest[end:]
	}
	path, query, _ = bytes.Cut(path, []byte("?"))
	if bytes.IndexByte(path, '#') >= 0 || bytes.IndexByte(query, '#') >= 0 || !bytes.Equal(path, ctx.Path()) {
		return path, query, doubtTarget
	}
	return path, query, ""
}

// open reads the header, and takes what has come in of the body.
func (v *visit) open(ctx *fasthttp.RequestCtx) {
	v.header.parse(ctx.Request.Header.RawHeaders())
	v.server.identify(v)
	v.standIn(ctx)
	v.conn.body.declare(v.header.values[hContentLength], v.header.values[hTransferEncoding])
	v.Body = v.conn.arrived()
}

// reopen reads the header of a request that fasthttp refused; false where its first line says nothing
// that is certain. Where its body ends is not certain either, so it has none.
func (v *visit) reopen(ctx *fasthttp.RequestCtx) (routed bool) {
	first, lines := v.conn.head()
	v.header.parse(lines)
	v.server.identify(v)
	method, rest, _ := bytes.Cut(first, []byte(" "))
	target, version, _ := bytes.Cut(rest, []byte(" "))
	for _, c := range first {
		if c < ' ' || c >= 0x7f {
			return false
		}
	}
	if len(method) == 0 || len(target) == 0 || target[0] != '/' || !bytes.HasPrefix(version, []byte("HTTP/1.")) {
		return false
	}
	h := &ctx.Request.Header
	h.SetMethodBytes(method)
	h.SetProtocolBytes(version)
	ctx.Request.SetRequestURIBytes(target)
	h.SetHost(anyHost)
	return true
}

// anyHost stands in for a Host that is refused later: fasthttp reads no path where it cannot read the
// host, and the path is asked for first.
const anyHost = "localhost"

func (v *visit) standIn(ctx *fasthttp.RequestCtx) {
	if host := v.header.values[hHost]; host != nil && !isHost(host) {
		ctx.Request.Header.SetHost(anyHost)
		ctx.Request.SetRequestURIBytes(ctx.Request.Header.RequestURI()) // has it read anew
	}
}

// admit reads the request into the exchange and takes the decisions that need fasthttp, in
// CONTRACT §1's order: route, method, framing, sizes, media type. A path that could be read in
// two ways names no route, so that comes before all.
func (s *Server) admit(ctx *fasthttp.RequestCtx, v *visit) wallet.Code {
	path, query, unclear := target(ctx, v.header.values[hHost])
	framing := v.framing(ctx)
	if unclear != "" || framing != "" {
		ctx.SetConnectionClose() // where this request ends is anyone's guess
	}
	if unclear != "" {
		return v.Refuse(wallet.BadRequest, unclear)
	}
	v.route = s.find(path)
	v.Op, v.Route = v.route.Op(), v.route.Limits()
	switch {
	case v.route.Route == wallet.NoRoute:
		return wallet.NotFound
	case string(ctx.Method()) != v.route.Method():
		return wallet.MethodNotAllowed
	case framing != "":
		return v.Refuse(wallet.BadRequest, framing)
	case v.Op == wallet.NoOp:
		return wallet.Pass
	case v.Op == wallet.Read:
		v.readRequest(ctx, path, query)
		return wallet.Pass
	default:
		return v.writeRequest(query)
	}
}

// identify finds who asks, and under which name the request is followed.
func (s *Server) identify(v *visit) {
	h := &v.header
	v.Caller, v.Addr = v.conn, v.conn.addr
	v.Peer, v.PeerGone = v.conn.judgeClient(v.Now + v.Skew)
	var err error
	if v.Origin.Corr, err = wallet.ParseCorrID(h.values[hXCorrID]); err != nil || h.twice[hXCorrID] {
		v.Origin.Corr = s.ids.next(v.Now)
	}
	if !h.twice[hTraceparent] {
		v.Origin.Trace, _ = wallet.ParseTrace(h.values[hTraceparent]) // unfit: as if it were absent (W3C Trace Context §3.2)
	}
	v.Token = bearer(h.values[hAuthorization])
	v.Key = h.values[hIdempotencyKey]
}

// bearer is the token of an Authorization header, nil for another scheme (RFC 6750 §2.1; schemes
// have no case, RFC 9110 §11.1).
func bearer(value []byte) []byte {
	const scheme = "bearer "
	if len(value) <= len(scheme) || !bytes.EqualFold(value[:len(scheme)], []byte(scheme)) {
		return nil
	}
	return bytes.TrimLeft(value[len(scheme):], " ")
}

// framing says why the message could be read in two ways, or nothing.
func (v *visit) framing(ctx *fasthttp.RequestCtx) string {
	h := &v.header
	version := string(ctx.Request.Header.Protocol())
	h.old = version == "HTTP/1.0"
	switch {
	case v.conn.heads.bare:
		return doubtBareLF
	case h.doubt != "":
		return h.doubt
	case version != "HTTP/1.1" && !h.old:
		return doubtVersion
	case !isHost(h.values[hHost]) && (h.values[hHost] != nil || !h.old):
		return doubtHost
	}
	if doubt := v.bodyFraming(ctx.IsGet() || ctx.IsHead()); doubt != "" {
		return doubt
	}
	switch {
	case h.values[hExpect] != nil && !bytes.EqualFold(h.values[hExpect], []byte("100-continue")):
		return doubtExpect
	case !v.conn.heads.ends(headLength(&ctx.Request.Header)):
		return doubtHead
	default:
		return ""
	}
}

// bodyFraming says why where the body ends could be read in two ways.
func (v *visit) bodyFraming(get bool) string {
	h := &v.header
	length, transfer := h.values[hContentLength], h.values[hTransferEncoding]
	switch {
	case transfer != nil && h.old:
		return doubtOld
	case length != nil && transfer != nil:
		return doubtLength
	case transfer != nil && !bytes.EqualFold(transfer, []byte("chunked")):
		return doubtEncoding
	case length != nil && !isDecimal(length):
		return doubtDigits
	case get && (transfer != nil || (length != nil && string(length) != "0")):
		return doubtBody
	case v.conn.body.chunks.at == chunksBad:
		return doubtChunks
	default:
		return ""
	}
}

// readRequest takes what a read says. What is wrong with it is refused in decoding's place, by
// the filter "query".
func (v *visit) readRequest(ctx *fasthttp.RequestCtx, path, query []byte) {
	if seq := v.header.values[hXMinLedgerSeq]; seq != nil {
		n, ok := parseSeq(seq)
		if !ok {
			v.Unfit = unfitMinSeq
		}
		v.MinSeq = n
	}
	if v.route.Route == wallet.RouteTx {
		v.TxText = path[len(wallet.TxPath):]
		v.refuseQuery(query)
		return
	}
	args, second := ctx.QueryArgs(), "asset"
	if v.route.Route == wallet.RoutePayment {
		second = "idem"
	}
	if args.Len() != 2 || !args.Has("account") || !args.Has(second) {
		v.Unfit = unfitQuery
		return
	}
	if !isEscaped(query) {
		v.Unfit = unfitEscape
		return
	}
	v.Account = args.Peek("account")
	if v.route.Route == wallet.RoutePayment {
		v.ByKey, v.IdemText = true, args.Peek(second)
		return
	}
	v.Asset = args.Peek(second)
}

// isEscaped says that each percent sign begins an escape. fasthttp takes others literally.
func isEscaped(query []byte) bool {
	const hex = "0123456789abcdefABCDEF"
	for {
		_, rest, found := bytes.Cut(query, []byte("%"))
		if !found {
			return true
		}
		if len(rest) < 2 || len(bytes.Trim(rest[:2], hex)) > 0 {
			return false
		}
		query = rest[2:]
	}
}

func isDecimal(s []byte) bool { return len(s) > 0 && len(bytes.Trim(s, "0123456789")) == 0 }

// parseSeq reads a decimal of 64 bits.
func parseSeq(s []byte) (n uint64, ok bool) {
	for _, c := range s {
		if c < '0' || c > '9' || n > (1<<64-1-uint64(c-'0'))/10 {
			return 0, false
		}
		n = 10*n + uint64(c-'0')
	}
	return n, len(s) > 0
}

// writeRequest takes what a payment says, and holds its size and media type against the caps.
func (v *visit) writeRequest(query []byte) wallet.Code {
	v.refuseQuery(query)
	if v.isOver(v.Limits.MaxBodyBytes) {
		return wallet.BodyTooLarge
	}
	if shadow := v.Limits.Shadow; shadow != nil && v.isOver(shadow.MaxBodyBytes) {
		v.Shadowed.Add(filters.ShadowBody)
	}
	if !isJSON(v.header.values[hContentType]) {
		return v.Refuse(wallet.UnsupportedMediaType, "the content type must be application/json in UTF-8")
	}
	switch coding := v.header.values[hContentEncoding]; {
	case len(coding) == 0 || bytes.EqualFold(coding, []byte("identity")):
	case bytes.EqualFold(coding, []byte("gzip")) || bytes.EqualFold(coding, []byte("x-gzip")): // RFC 9110 §8.4.1.3
		v.Gzip = true
	default:
		return v.Refuse(wallet.UnsupportedMediaType, "the only content encoding is gzip")
	}
	return wallet.Pass
}

func (v *visit) refuseQuery(query []byte) {
	if len(query) > 0 {
		v.Unfit = unfitQuery
	}
}

// headLength is how many bytes fasthttp took for a head, from its request line on.
func headLength(h *fasthttp.RequestHeader) int {
	rest := len(h.RawHeaders())
	if rest == 0 {
		rest = len("\r\n") // fasthttp keeps no raw headers where there are none
	}
	return len(h.Method()) + len(h.RequestURI()) + len(h.Protocol()) + len("  \r\n") + rest
}
