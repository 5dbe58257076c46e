package main

import (
	"bytes"
	"fmt"
	"html/template"
)

// html is the report: one file without anything from outside.
func (r *Result) html() ([]byte, error) {
	var out bytes.Buffer
	page := template.Must(template.New("report").Funcs(template.FuncMap{
		"charts":  func(p *phaseResult) []template.HTML { return p.charts() },
		"percent": func(share float64) string { return fmt.Sprintf("%.3f %%", share*100) },
		"mib":     func(bytes int64) int64 { return bytes >> 20 },
		"less":    func(a, b uint64) uint64 { return a - b },
	}).Parse(reportPage))
	phases := make([]*phaseResult, len(r.Phases))
	for i := range r.Phases {
		phases[i] = &r.Phases[i]
	}
	err := page.Execute(&out, struct {
		*Result
		Parts []*phaseResult
	}{r, phases})
	return out.Bytes(), err
}

const reportPage = `{{define "latency"}}<td>{{.Count}}</td><td>{{printf "%.2f" .P50}}</td><td>{{printf "%.2f" .P95}}</td><td>{{printf "%.2f" .P99}}</td><td>{{printf "%.2f" .P999}}</td><td>{{printf "%.2f" .Max}}</td>{{end}}<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>svc-wallet: {{.Scenario}}</title>
<style>
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:900px;color:#111827;background:#fff}
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}
p{margin:.3rem 0;color:#374151}
table{border-collapse:collapse;margin:.7rem 0}th,td{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #e5e7eb}
th:first-child,td:first-child{text-align:left}th{font-weight:600}
svg{width:100%;height:auto;margin:.6rem 0}svg polyline{fill:none;stroke-width:1.6}
svg text{font-size:11px;fill:#374151}svg .title{font-size:13px;font-weight:600}svg .y{text-anchor:end}svg .x{text-anchor:middle}
svg .grid{stroke:#e5e7eb}
.sound{color:#047857}.unsound{color:#b91c1c;font-weight:600}
</style></head><body>
<h1>{{.Scenario}}</h1>
<p>{{.At}} · {{.Program}} · {{.Machine.Cores}} cores, {{.Machine.CPU}}, Linux {{.Machine.Kernel}}, {{.Machine.Go}} · {{.Connections}} connections, {{.Accounts}} accounts · ready in {{printf "%.0f" .ReadyMillis}} ms</p>
{{with .Money}}<p class="{{if and (eq .Balances (less .Issued .Burned)) (eq .Faults 0)}}sound{{else}}unsound{{end}}">
Money: issued {{.Issued}} − burned {{.Burned}} = {{less .Issued .Burned}}; balances sum to {{.Balances}}. {{.Unknown}} payments of unknown outcome were settled by their keys. The store: {{.Payments}} payments, {{.Faults}} faults.</p>{{end}}
{{range .Parts}}
<h2>{{.Name}}</h2>
<p>{{printf "%.0f" .Seconds}} s, {{if .Rate}}{{printf "%.0f" .Rate}}/s due{{else}}closed loop{{end}}: <b>{{printf "%.0f" .Goodput}}/s</b> answered as wanted, {{printf "%.0f" .Writes}}/s payments; shed {{percent .Shed}}, 5xx or no answer {{percent .Failed}}. readyz turned {{.Flips}} times.</p>
<table><tr><th>ms</th><th>answers</th><th>p50</th><th>p95</th><th>p99</th><th>p99.9</th><th>max</th></tr>
<tr><td>reads</td>{{template "latency" .Reads}}</tr>
<tr><td>payments</td>{{template "latency" .Payments}}</tr>
<tr><td>readyz</td>{{template "latency" .Ready}}</tr></table>
<table><tr><th></th><th>CPU a request</th><th>RSS</th><th>FDs</th></tr>
<tr><td>sidecar</td><td>{{printf "%.1f" .SidecarMicros}} µs</td><td>{{mib .SidecarRSS}} MiB</td><td>{{.SidecarFDs}}</td></tr>
<tr><td>node</td><td>{{printf "%.1f" .NodeMicros}} µs</td><td>{{mib .NodeRSS}} MiB</td><td>{{.NodeFDs}}</td></tr>
<tr><td>load</td><td>{{printf "%.1f" .LoadMicros}} µs</td><td></td><td></td></tr></table>
<p>{{printf "%.2f" .Cores}} cores used by sidecar and node; {{printf "%.1f" .Allocs}} allocations a request in the sidecar; {{printf "%.1f" .GCMillis}} ms of garbage collector's pauses.</p>
{{range charts .}}{{.}}{{end}}
<table><tr><th>kind</th><th>status</th><th>answers</th><th>p50</th><th>p95</th><th>p99</th><th>p99.9</th><th>max</th></tr>
{{range .Routes}}<tr><td>{{.Kind}}</td><td>{{if .Status}}{{.Status}}{{else}}none{{end}}</td>{{template "latency" .}}</tr>{{end}}</table>
{{end}}
</body></html>
`
