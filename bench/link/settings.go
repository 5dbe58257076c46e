package link

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Settings are what happens to a packet on its way in one direction, in netem's terms. The zero value passes all
// on at once.
type Settings struct {
	Delay       time.Duration `json:"delay_ns"`
	Jitter      time.Duration `json:"jitter_ns"`   // evenly up to so much more or less; packets may overtake each other
	Correlation float64       `json:"correlation"` // of a packet's jitter with that of the one before, a share
	Loss        float64       `json:"loss"`        // a share
	Rate        int64         `json:"rate_bits"`   // a second; 0: no bound
	Limit       int           `json:"limit"`       // packets on their way; more are dropped. 0: 1,000, as of netem
}

const (
	usualLimit = 1000
	maxLimit   = 100_000
	maxDelay   = time.Minute
	maxRate    = 1e12
)

// Bind makes flags of the settings; they are held by Check once they were parsed.
func (s *Settings) Bind(fs *flag.FlagSet) {
	fs.DurationVar(&s.Delay, "delay", 0, "of each packet, in each direction: half a round trip")
	fs.DurationVar(&s.Jitter, "jitter", 0, "up to so much more or less delay")
	fs.Func("correlation", "of a packet's jitter with that of the one before, such as 25%", share(&s.Correlation))
	fs.Func("loss", "packets lost in each direction, such as 0.5%", share(&s.Loss))
	fs.Func("rate", "bits a second, such as 100mbit", func(text string) (err error) { s.Rate, err = parseRate(text); return err })
	fs.IntVar(&s.Limit, "limit", usualLimit, "packets on their way in a direction; more are dropped")
}

// Check refuses what no link can do.
func (s *Settings) Check() error {
	isShare := func(f float64) bool { return f >= 0 && f <= 1 }
	switch {
	case s.Delay < 0 || s.Delay > maxDelay || s.Jitter < 0 || s.Jitter > maxDelay:
		return fmt.Errorf("delay and jitter are 0 to %v", maxDelay)
	case !isShare(s.Loss) || !isShare(s.Correlation):
		return errors.New("loss and correlation are 0% to 100%")
	case s.Rate < 0 || s.Rate > maxRate:
		return errors.New("rate is 1bit to 1000gbit")
	case s.Limit < 0 || s.Limit > maxLimit:
		return fmt.Errorf("limit is 1 to %d", maxLimit)
	}
	return nil
}

// Netem are the arguments by which `tc qdisc add … netem` does the same.
func (s *Settings) Netem() (args []string) {
	percent := func(f float64) string { return strconv.FormatFloat(f*100, 'f', -1, 64) + "%" }
	micros := func(d time.Duration) string { return strconv.FormatInt(d.Microseconds(), 10) + "us" }
	args = []string{"limit", strconv.Itoa(s.limit())}
	if s.Delay > 0 || s.Jitter > 0 {
		args = append(args, "delay", micros(s.Delay))
	}
	if s.Jitter > 0 {
		if args = append(args, micros(s.Jitter)); s.Correlation > 0 {
			args = append(args, percent(s.Correlation))
		}
	}
	if s.Loss > 0 {
		args = append(args, "loss", percent(s.Loss))
	}
	if s.Rate > 0 {
		args = append(args, "rate", strconv.FormatInt(s.Rate, 10)+"bit")
	}
	return args
}

// String says it as Netem does.
func (s Settings) String() string {
	if s.Limit = s.limit(); s == (Settings{Limit: usualLimit}) {
		return "all passes at once"
	}
	return strings.Join(s.Netem(), " ") + ", in each direction"
}

func (s *Settings) limit() int {
	if s.Limit == 0 {
		return usualLimit
	}
	return s.Limit
}

func share(to *float64) func(string) error {
	return func(text string) error {
		number, isPercent := strings.CutSuffix(text, "%")
		f, err := strconv.ParseFloat(number, 64)
		if err != nil || !isPercent || math.IsNaN(f) {
			return fmt.Errorf("%q is no percentage, such as 0.5%%", text)
		}
		*to = f / 100
		return nil
	}
}

func parseRate(text string) (int64, error) {
	number, is := strings.CutSuffix(text, "bit")
	unit := 1.0
	if is && number != "" {
		if at := strings.IndexByte("kmg", number[len(number)-1]); at >= 0 {
			unit = math.Pow10(3 * (at + 1))
			number = number[:len(number)-1]
		}
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || !is || !(f*unit >= 1 && f*unit <= maxRate) {
		return 0, fmt.Errorf("%q is no rate, such as 100mbit", text)
	}
	return int64(f * unit), nil
}
