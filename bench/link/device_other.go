//go:build !linux

package link

import "errors"

var errLinux = errors.New("this system has no network namespaces")

func (l *Link) open() error { return errLinux }

// Net is nothing here.
func (l *Link) Net() string { return "" }

// Run does nothing here.
func (l *Link) Run(func() error) error { return errLinux }

// Enter does nothing here.
func Enter(string) error { return errLinux }
