package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestLogLinesHaveOneShape: the message of a line is the name of an event, and what there is to say
// about it is in fields that do not collide with the line's own; a cause is in reason. Method: every
// call of a logger in the product's code, by parsing it.
func TestLogLinesHaveOneShape(t *testing.T) {
	event := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	seen := 0
	for file := range productImports(t) {
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, filepath.FromSlash(file), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			of, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || len(call.Args) == 0 || !isLogger(of.X) {
				return true
			}
			text, literal := literalOf(call.Args[0])
			switch name := of.Sel.Name; {
			case slices.Contains([]string{"Debug", "Info", "Warn", "Error", "Fatal"}, name):
				seen++
				if literal && !event.MatchString(text) { // what is no literal is put together of names
					t.Errorf("%s: %q is no name of an event", set.Position(call.Pos()), text)
				}
			case strings.HasSuffix(name, "f") && name != "Printf":
				t.Errorf("%s: a message that is put together is no name of an event", set.Position(call.Pos()))
			case name == "WithField" && slices.Contains([]string{"event", "ts", "level", "service"}, text):
				t.Errorf("%s: the field %q is the line's own", set.Position(call.Pos()), text)
			}
			return true
		})
	}
	if seen < 30 {
		t.Errorf("only %d log lines were found", seen)
	}
}

func literalOf(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}

// isLogger says of an expression that it is a logger, or a chain of fields on one.
func isLogger(e ast.Expr) bool {
	switch x := e.(type) {
	case *ast.Ident:
		return x.Name == "log"
	case *ast.SelectorExpr:
		return strings.EqualFold(x.Sel.Name, "log")
	case *ast.CallExpr:
		of, ok := x.Fun.(*ast.SelectorExpr)
		return ok && strings.HasPrefix(of.Sel.Name, "With") && isLogger(of.X)
	default:
		return false
	}
}
