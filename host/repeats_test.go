package host

import (
	"fmt"
	"testing"
	"time"
)

// TestRepeats: a text is told once and then once a minute, with how often it came meanwhile; too many
// different ones are counted, and no more of them are kept. Method: an injected clock.
func TestRepeats(t *testing.T) {
	var r Repeats
	told := 0
	for second := range int64(121) {
		fields, tell := r.Tell("away", second*int64(time.Second))
		if !tell {
			continue
		}
		if told++; told > 1 && fields["repeated"] != 59 {
			t.Errorf("line %d: %v", told, fields)
		}
	}
	if told != 3 {
		t.Errorf("%d lines in two minutes", told)
	}
	now := int64(121 * time.Second)
	told = 0
	for i := range 1000 {
		if _, tell := r.Tell(fmt.Sprint(i), now); tell {
			told++
		}
	}
	if told != maxRepeats-1 || len(r.known) != maxRepeats {
		t.Errorf("%d of 1000 different ones were told, %d are kept", told, len(r.known))
	}
	fields, tell := r.Tell("a new one", now+int64(repeatAgain))
	if !tell || fields["others_left_out"] != 1000-told {
		t.Errorf("afterwards: %v, %v", tell, fields)
	}
}
