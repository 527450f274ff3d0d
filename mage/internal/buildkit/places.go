package buildkit

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/containai/containai/mage/fault"
)

// maxBake bounds a bake file, in bytes.
const maxBake = 1 << 20

// places knows where a bake file says what. Buildx evaluates the file; this only finds lines in it,
// for messages. Of a bake file in JSON or Compose's format it knows no lines.
type places struct {
	file    string
	targets map[string][]*hclsyntax.Body // a target may be written in several blocks
	dynamic bool                         // the file makes targets whose names it computes
}

// readPlaces reads the bake file. What is wrong with its syntax Buildx says better.
func readPlaces(root, file string) (places, error) {
	p := places{file: filepath.ToSlash(file), targets: map[string][]*hclsyntax.Body{}}
	content, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		return p, fault.Wrap(err, fault.Invalid, "reading", file)
	}
	if len(content) > maxBake {
		return p, fault.New(fault.Invalid, "reading", file, "it has %d bytes, at most %d are read", len(content), maxBake)
	}
	if filepath.Ext(file) != ".hcl" {
		p.dynamic = true
		return p, nil
	}
	parsed, _ := hclsyntax.ParseConfig(content, file, hcl.InitialPos)
	body, ok := parsed.Body.(*hclsyntax.Body)
	if !ok {
		return p, nil
	}
	for _, block := range body.Blocks {
		if block.Type == "target" && len(block.Labels) == 1 {
			p.targets[block.Labels[0]] = append(p.targets[block.Labels[0]], block.Body)
			p.dynamic = p.dynamic || block.Body.Attributes["matrix"] != nil
		}
	}
	return p, nil
}

// line returns where a target sets an attribute, or one key of it, itself or in what it inherits
// from; else where the target begins.
func (p places) line(target string, path ...string) int {
	if line := p.find(target, path, nil); line > 0 {
		return line
	}
	if len(path) > 1 {
		return p.line(target, path[0])
	}
	if blocks := p.targets[target]; len(blocks) > 0 {
		return blocks[0].SrcRange.Start.Line
	}
	return 1
}

// find looks through a target's blocks, the last one first, as they override each other.
func (p places) find(target string, path, seen []string) int {
	if slices.Contains(seen, target) {
		return 0
	}
	blocks := p.targets[target]
	for i := len(blocks) - 1; i >= 0; i-- {
		attribute := blocks[i].Attributes[path[0]]
		if attribute == nil {
			continue
		}
		if len(path) == 1 {
			return attribute.SrcRange.Start.Line
		}
		for _, item := range itemsOf(attribute.Expr) {
			if item.key == path[1] {
				return item.line
			}
		}
	}
	for _, parent := range slices.Backward(p.inherited(target)) {
		if line := p.find(parent.to, path, append(seen, target)); line > 0 {
			return line
		}
	}
	return 0
}

// link is one target that another names, where it is written plainly.
type link struct {
	to   string
	line int
}

// links returns the targets that a target inherits from or takes as a context.
func (p places) links(target string) []link {
	all := p.inherited(target)
	for _, block := range p.targets[target] {
		if attribute := block.Attributes["contexts"]; attribute != nil {
			for _, item := range itemsOf(attribute.Expr) {
				if to, ok := strings.CutPrefix(item.value, "target:"); ok {
					all = append(all, link{to, item.line})
				}
			}
		}
		if attribute := block.Attributes["context"]; attribute != nil {
			if to, ok := strings.CutPrefix(text(attribute.Expr), "target:"); ok {
				all = append(all, link{to, attribute.SrcRange.Start.Line})
			}
		}
	}
	return all
}

func (p places) inherited(target string) []link {
	var all []link
	for _, block := range p.targets[target] {
		attribute := block.Attributes["inherits"]
		if attribute == nil {
			continue
		}
		if list, ok := attribute.Expr.(*hclsyntax.TupleConsExpr); ok {
			for _, e := range list.Exprs {
				if to := text(e); to != "" {
					all = append(all, link{to, e.StartRange().Start.Line})
				}
			}
		}
	}
	return all
}

// item is one key of an object, where it is written plainly.
type item struct {
	key, value string
	line       int
}

func itemsOf(e hclsyntax.Expression) []item {
	object, ok := e.(*hclsyntax.ObjectConsExpr)
	if !ok {
		return nil
	}
	var items []item
	for _, i := range object.Items {
		items = append(items, item{text(i.KeyExpr), text(i.ValueExpr), i.KeyExpr.StartRange().Start.Line})
	}
	return items
}

// text returns the string that an expression is, or "" when it takes variables to know.
func text(e hclsyntax.Expression) string {
	if key, ok := e.(*hclsyntax.ObjectConsKeyExpr); ok {
		if word := hcl.ExprAsKeyword(key.Wrapped); word != "" {
			return word
		}
		e = key.Wrapped
	}
	if literal, ok := e.(*hclsyntax.TemplateExpr); ok && literal.IsStringLiteral() {
		value, _ := literal.Value(nil)
		return value.AsString()
	}
	return ""
}
