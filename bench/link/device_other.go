//go:build !linux

package link

import (
	"errors"
	"fmt"
)

var errLinux = fmt.Errorf("this system has no network namespaces: %w", errors.ErrUnsupported)

func (l *Link) open() error { return errLinux }

// Net is nothing here.
func (l *Link) Net() string { return "" }

// Run does nothing here.
func (l *Link) Run(func() error) error { return errLinux }

// Enter does nothing here.
func Enter(string) error { return errLinux }
