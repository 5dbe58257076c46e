// Package docs holds the pages that the program itself serves.
package docs

import _ "embed" // of the document

// OpenAPI is the document of the wallet routes, in YAML.
//
//go:embed openapi.yaml
var OpenAPI []byte
