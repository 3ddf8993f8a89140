// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

// Every word that package reexec has for a state has a series, and no other does.
func TestStatesAreThoseOfTheMachine(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../service.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	words := []string{control.Executing}
	renamed := map[string]bool{} // states that have another word there
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Name.Name != "stateWord" {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				word, err := strconv.Unquote(n.Value)
				if err != nil {
					t.Fatal(err)
				}
				words = append(words, word)
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "machine" {
					renamed[n.Sel.Name] = true
				}
			}
			return true
		})
	}
	if len(renamed) < 5 {
		t.Fatalf("stateWord renames %v", renamed)
	}
	for s := range machine.States {
		name := s.String()
		if exported := string(name[0]-'a'+'A') + name[1:]; !renamed[exported] {
			words = append(words, name)
		}
	}
	slices.Sort(words)
	got := slices.Sorted(slices.Values(states))
	if want := slices.Compact(words); !slices.Equal(got, want) {
		t.Errorf("states are %q, want %q", got, want)
	}
}
