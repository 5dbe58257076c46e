package apicheck

import (
	"fmt"
	"net/http"
	"regexp"
)

// fitCorrID is what a client may send as X-Corr-ID; anything else is replaced.
var fitCorrID = regexp.MustCompile(`^[!-~]{1,64}$`)

// beyond checks what OpenAPI cannot say: where one part of an exchange follows from another.
func beyond(req *http.Request, header http.Header, value any) error {
	id := header.Get("X-Corr-Id")
	if sent := req.Header.Get("X-Corr-Id"); fitCorrID.MatchString(sent) && id != sent {
		return fmt.Errorf("X-Corr-ID is %q, sent was %q", id, sent)
	}
	members, _ := value.(map[string]any)
	code, ok := members["code"]
	if !ok {
		return nil // no error body
	}
	if members["corr_id"] != id {
		return fmt.Errorf("corr_id is %q, X-Corr-ID is %q", members["corr_id"], id)
	}
	for _, name := range []string{"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"} {
		if (header.Get(name) != "") != (code == "RATE_LIMITED") {
			return fmt.Errorf("%s is %q with %s", name, header.Get(name), code)
		}
	}
	return nil
}
