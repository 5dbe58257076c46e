package wallet

// Route is a route of the HTTP interface (CONTRACT §1). It is a label of metrics and logs, and bounds
// them. The zero value is none: what is not found, or no request.
type Route uint8

// The routes. Those that limits name come first.
const (
	NoRoute Route = iota
	RouteBalance
	RouteTx
	RouteIssue
	RouteTransfer
	RouteBurn
	RoutePayment // a receipt by account and key; to limits it is RouteTx
	RouteHealthz
	RouteReadyz
	NumRoutes
)

// TxPath is what stands before a transaction's id.
const TxPath = "/v1/tx/"

var routes = [NumRoutes]struct { //nolint:gochecknoglobals // a table
	method, path string
	op           Op
	limits       string // its name in settings and pushes
}{
	NoRoute:       {"other", "none", NoOp, ""},
	RouteBalance:  {"GET", "/v1/balance", Read, "balance"},
	RouteTx:       {"GET", TxPath + "{txid}", Read, "tx"},
	RouteIssue:    {"POST", "/v1/issue", Issue, "issue"},
	RouteTransfer: {"POST", "/v1/transfer", Transfer, "transfer"},
	RouteBurn:     {"POST", "/v1/burn", Burn, "burn"},
	RoutePayment:  {"GET", "/v1/tx", Read, ""},
	RouteHealthz:  {"GET", "/healthz", NoOp, ""},
	RouteReadyz:   {"GET", "/readyz", NoOp, ""},
}

// Method is the one HTTP method that the route serves; of NoRoute, the label of all others.
func (r Route) Method() string { return routes[r].method }

// Path is the route as CONTRACT §1 writes it.
func (r Route) Path() string { return routes[r].path }

// Op is what a request of the route does; NoOp where that is no business of the wallet.
func (r Route) Op() Op { return routes[r].op }

// Limits is the route whose limits hold for r: another one's, its own, or NoRoute.
func (r Route) Limits() Route {
	switch {
	case r == RoutePayment:
		return RouteTx
	case routes[r].limits == "":
		return NoRoute
	default:
		return r
	}
}

// String is the route's name in settings and pushes; "" where they do not name it.
func (r Route) String() string { return routes[r].limits }
