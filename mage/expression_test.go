package mage_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/rhysd/actionlint"
)

// terms is what the expressions of a workflow may name: github, inputs, needs, steps, runner.
type terms map[string]any

var expression = regexp.MustCompile(`\$\{\{(.*?)\}\}`)

// text replaces the expressions in a value of a workflow.
func (s terms) text(t *testing.T, template string) string {
	t.Helper()
	return expression.ReplaceAllStringFunc(template, func(e string) string {
		return fmt.Sprint(s.value(t, strings.TrimSuffix(strings.TrimPrefix(e, "${{"), "}}")))
	})
}

// holds decides an `if`.
func (s terms) holds(t *testing.T, condition string) bool {
	t.Helper()
	condition = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(condition), "${{"), "}}")
	if condition == "" {
		condition = "success()"
	}
	if !regexp.MustCompile(`\b(success|failure|always|cancelled)\(\)`).MatchString(condition) {
		condition = "success() && (" + condition + ")"
	}
	return truth(s.value(t, condition))
}

func (s terms) value(t *testing.T, source string) any {
	t.Helper()
	node, wrong := actionlint.NewExprParser().Parse(actionlint.NewExprLexer(source + "}}"))
	if wrong != nil {
		t.Fatalf("%q: %v", source, wrong)
	}
	value, err := s.eval(node)
	if err != nil {
		t.Fatalf("%q: %v", source, err)
	}
	return value
}

// eval is as much of GitHub's language as the workflows use; anything else is an error.
// https://docs.github.com/en/actions/reference/workflows-and-actions/expressions
func (s terms) eval(node actionlint.ExprNode) (any, error) {
	switch n := node.(type) {
	case *actionlint.VariableNode:
		return s[n.Name], nil
	case *actionlint.StringNode:
		return n.Value, nil
	case *actionlint.ObjectDerefNode:
		object, err := s.eval(n.Receiver)
		members, _ := object.(terms)
		if value, ok := members[n.Property]; ok {
			return value, err
		}
		return "", err // what is not there is empty
	case *actionlint.NotOpNode:
		operand, err := s.eval(n.Operand)
		return !truth(operand), err
	case *actionlint.CompareOpNode:
		left, err := s.eval(n.Left)
		if err != nil || n.Kind != actionlint.CompareOpNodeKindEq {
			return nil, fmt.Errorf("an operator that is not read: %v", err)
		}
		right, err := s.eval(n.Right)
		return strings.EqualFold(fmt.Sprint(left), fmt.Sprint(right)), err
	case *actionlint.LogicalOpNode:
		left, err := s.eval(n.Left)
		if err != nil || truth(left) != (n.Kind == actionlint.LogicalOpNodeKindAnd) {
			return left, err
		}
		return s.eval(n.Right)
	case *actionlint.FuncCallNode:
		return s.call(n)
	}
	return nil, fmt.Errorf("%T is not read", node)
}

func (s terms) call(n *actionlint.FuncCallNode) (any, error) {
	var args []any
	for _, a := range n.Args {
		value, err := s.eval(a)
		if err != nil {
			return nil, err
		}
		args = append(args, value)
	}
	switch strings.ToLower(n.Callee) {
	case "success":
		return s["failed"] == nil, nil
	case "cancelled":
		return s["cancelled"] != nil, nil
	case "always":
		return true, nil
	case "fromjson":
		var list []any
		err := json.Unmarshal([]byte(fmt.Sprint(args[0])), &list)
		return list, err
	case "contains":
		for _, item := range args[0].([]any) {
			if item == args[1] {
				return true, nil
			}
		}
		return false, nil
	}
	return nil, fmt.Errorf("%s() is not read", n.Callee)
}

func truth(value any) bool {
	switch v := value.(type) {
	case bool:
		return v
	case string:
		return v != ""
	}
	return value != nil
}
