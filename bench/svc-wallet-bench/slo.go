package main

import "context"

func slo(ctx context.Context, args []string) error  { return nil }
func gate(ctx context.Context, args []string) error { return nil }
func (r *Result) against(string) error              { return nil }
