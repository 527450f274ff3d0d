package mage_test

import (
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"regexp"
	"testing"
)

// TestNoPatternIsWrong compiles every lazy regular expression, which otherwise nobody does before its first use.
func TestNoPatternIsWrong(t *testing.T) { hold(t, patterns) }

func TestNoPatternIsWrongComplains(t *testing.T) {
	for name, pattern := range map[string]string{"wrong": "`a(`", "wrong as a whole": "`(a` + `(b)`", "unknown here": "f()"} {
		t.Run(name, func(t *testing.T) {
			code := "package a; var p = lazyregexp.New(" + pattern + ")"
			if got := patterns(parse(t, "mage/a.go", code)); len(got) != 1 {
				t.Errorf("%d complaints, want 1: %v", len(got), got)
			}
		})
	}
}

func patterns(s source) []string {
	if s.test {
		return nil
	}
	var complaints []string
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || types.ExprString(call.Fun) != "lazyregexp.New" || len(call.Args) != 1 {
			return true
		}
		pattern := literal(s.fset, call.Args[0])
		if pattern == nil {
			complaints = append(complaints, s.complaint(call, "the pattern is no literal, so no test can see whether it is right"))
		} else if _, err := regexp.Compile(constant.StringVal(pattern)); err != nil {
			complaints = append(complaints, s.complaint(call, "%v", err))
		}
		return true
	})
	return complaints
}

// literal is the string that an expression of literals makes; nil if it is another one.
func literal(fset *token.FileSet, e ast.Expr) constant.Value {
	info := types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	if err := types.CheckExpr(fset, nil, token.NoPos, e, &info); err != nil {
		return nil
	}
	return info.Types[e].Value
}
