package proxy

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/sirupsen/logrus"
	"github.com/valyala/fasthttp"

	"svc-wallet/filters"
	"svc-wallet/wallet"
)

// serve is the life of a request. finish ends it, also where something panicked.
func (s *Server) serve(ctx *fasthttp.RequestCtx) {
	v := s.take(ctx)
	defer s.finish(ctx, v)
	v.open(ctx)
	code := s.admit(ctx, v)
	if code == wallet.Pass && !v.conn.body.whole() {
		code = s.await(ctx, v)
	}
	if v.PeerGone || v.conn.aged(v.Now) {
		ctx.SetConnectionClose()
	}
	v.begin(s.metrics)
	if code == wallet.Pass {
		code = v.route.chain.Do(&v.Exchange, v.route.last)
	}
	if !v.skippable() {
		ctx.SetConnectionClose()
		v.conn.linger = true
	}
	v.conn.heads = heads{}
	s.answer(ctx, v, code)
}

// await waits for the rest of a body whose head has passed all that is judged before one is read.
// Limits may have been pushed meanwhile, so everything is then judged by those of then.
func (s *Server) await(ctx *fasthttp.RequestCtx, v *visit) wallet.Code {
	passed := func(*filters.Exchange) wallet.Code { return wallet.Pass }
	if code := v.route.head.Do(&v.Exchange, passed); code != wallet.Pass {
		return code
	}
	if code := v.fetch(); code != wallet.Pass {
		return code
	}
	v.renew()
	return s.admit(ctx, v)
}

// answer writes the answer down.
func (s *Server) answer(ctx *fasthttp.RequestCtx, v *visit, code wallet.Code) {
	v.code = code
	s.encode(ctx, v, code)
}

// visit is one request at the edge: the exchange that the filters see, and what only the edge
// needs of it. Visits are pooled.
type visit struct {
	filters.Exchange
	server *Server
	conn   *conn
	route  *route
	header header
	room   []byte      // of a body that did not come in with its head
	code   wallet.Code // the answer
	begun  bool        // counted in

	invited bool // 100 Continue was sent
	cut     bool // reading of the body failed
}

func (v *visit) reset() {
	v.giveBack()
	v.Reset()
	v.server, v.conn, v.route, v.header = nil, nil, nil, header{}
	v.room, v.code = v.room[:0], wallet.Uncertain
	v.begun, v.invited, v.cut = false, false, false
}

// begin counts the request in, once its route is known.
func (v *visit) begin(m *Metrics) {
	v.begun = true
	m.begin(v.route.Route)
}

// end counts it out.
func (v *visit) end(m *Metrics, now int64) {
	if !v.begun {
		m.begin(v.route.Route)
	}
	m.done(v.route.Route, v.code, now-v.Now)
	if v.Shadowed != 0 {
		m.shadowed(v.Shadowed)
	}
}

// take begins a visit. It sees one version of the limits from here to its end, unless it has to wait
// for its body.
func (s *Server) take(ctx *fasthttp.RequestCtx) *visit {
	v := s.visits.Get().(*visit)
	v.server = s
	v.conn = ctx.Conn().(*conn) // the listener makes no others
	v.route = &s.table[wallet.NoRoute]
	v.renew()
	return v
}

// renew makes the visit begin now, under the limits of now.
func (v *visit) renew() {
	d := &v.server.deps
	v.Limits, v.Now, v.Skew = d.Live.Load(), d.Now(), d.Clock.Skew()
	v.Deadline = v.Now + int64(v.Limits.RequestDeadline)
}

// finish ends a visit: it turns a panic into INTERNAL_ERROR, counts, logs and gives the visit
// back. What panicked may have left a reference to the visit behind, so that one is not used
// again.
func (s *Server) finish(ctx *fasthttp.RequestCtx, v *visit) {
	p := recover()
	if p != nil {
		s.panicked(ctx, v, p)
	}
	now := s.deps.Now()
	v.conn.served(v.Grant != nil, now)
	v.end(s.metrics, now)
	s.log.request(ctx, v, now)
	if p != nil {
		v.giveBack()
		return
	}
	v.reset()
	s.visits.Put(v)
}

// panicked answers INTERNAL_ERROR and tells operators, not the client, what happened.
func (s *Server) panicked(ctx *fasthttp.RequestCtx, v *visit, p any) {
	s.metrics.panicked()
	s.deps.Log.WithFields(logrus.Fields{
		"corr_id": v.Origin.Corr.String(), "route": v.route.Path(), "stack": string(debug.Stack()),
		"reason": fmt.Sprint(p),
	}).Error("handler_panicked")
	ctx.Response.Reset()
	ctx.SetConnectionClose()
	v.Detail = ""
	s.answer(ctx, v, wallet.Internal)
}

// refuse is fasthttp's ErrorHandler: it answers a head that cannot be read, and the connection then
// closes.
func (s *Server) refuse(ctx *fasthttp.RequestCtx, err error) {
	v := s.take(ctx)
	defer s.finish(ctx, v)
	v.allowWrite()
	if v.conn.heads.seen == 0 { // nobody asked: too slow with the first byte
		_ = v.conn.raw.Close()
	}
	v.conn.linger = true
	code, detail := unreadable(err)
	if v.reopen(ctx) {
		if admitted := s.admit(ctx, v); admitted != wallet.Pass {
			code, detail = admitted, v.Detail
		}
	}
	v.begin(s.metrics)
	v.Detail = detail
	s.answer(ctx, v, code)
}

// unreadable says what to answer to a parse error of fasthttp, whose text may quote the request.
func unreadable(err error) (code wallet.Code, detail string) {
	switch {
	case errors.As(err, new(*fasthttp.ErrSmallBuffer)):
		return wallet.BadRequest, "the request line and headers are over 8 KiB"
	case isTimeout(err):
		return wallet.RequestTimeout, "the request did not arrive in time; nothing was done"
	default:
		return wallet.BadRequest, "the request is not well-formed HTTP"
	}
}

// headOnly is fasthttp's HeaderReceived. It hides the body from fasthttp, and that a client waits to
// be asked for it: both are for later, when the head has passed. What the client sent stays in
// RawHeaders.
func headOnly(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	if h.ContentLength() != 0 {
		h.SetContentLength(0)
	}
	if len(h.Peek(fasthttp.HeaderExpect)) > 0 {
		h.Del(fasthttp.HeaderExpect)
	}
	return fasthttp.RequestConfig{}
}
