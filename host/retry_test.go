package host

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestBackoff: the waits double up to the most and never overflow, and jitter comes on top.
func TestBackoff(t *testing.T) {
	b := Backoff{First: 5e8, Most: 30e9}
	for n, want := range map[int]time.Duration{-1000: 0, -1: 0, 0: 5e8, 1: 1e9, 5: 16e9, 6: 30e9, 62: 30e9, 63: 30e9, 1000: 30e9} {
		if got := b.Pause(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
		if got := (Backoff{}).Pause(n); got != 0 {
			t.Errorf("%d: nothing is %s", n, got)
		}
	}
	if got := (Backoff{First: time.Hour, Most: time.Minute}).Pause(0); got != time.Minute {
		t.Errorf("the first wait is %s, over the most", got)
	}
	b.Jitter = 1e9
	low, high := time.Hour, time.Duration(0)
	for range 1000 {
		low, high = min(low, b.Pause(1)), max(high, b.Pause(1))
	}
	if low < 1e9 || high > 2e9 || high-low < 5e8 {
		t.Errorf("the waits go from %s to %s", low, high)
	}
}

// TestSleep: it lasts as long as it should, by a clock of its own, and ends with its context.
func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if !Sleep(ctx, time.Second) || time.Since(begun) != time.Second {
			t.Errorf("slept for %s", time.Since(begun))
		}
		if Sleep(ctx, time.Hour) || time.Since(begun) != time.Minute {
			t.Errorf("slept on for %s", time.Since(begun))
		}
	})
}
