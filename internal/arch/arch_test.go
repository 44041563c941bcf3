package arch

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

const module = "eggsfs"

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sources calls f for every Go file of the module that is neither a test nor generated.
func sources(t *testing.T, f func(rel string, set *token.FileSet, file *ast.File)) {
	t.Helper()
	top := root(t)
	n := 0
	err := filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(top, path)
		if d.IsDir() {
			if name := d.Name(); rel != "." &&
				(strings.HasPrefix(name, ".") || name == "testdata" || name == "run" || name == "bin" || name == "tools") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") ||
			strings.HasSuffix(rel, ".pb.go") {
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		n++
		f(rel, set, file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n < 20 {
		t.Fatalf("looked at %d files only: the walk is broken", n)
	}
}

func match(pattern, dir string) bool {
	if p, ok := strings.CutSuffix(pattern, "/..."); ok {
		return dir == p || strings.HasPrefix(dir, p+"/")
	}
	return pattern == dir
}

func ruleFor(dir string) (Rule, bool) {
	for _, r := range Rules {
		if match(r.Room, dir) {
			return r, true
		}
	}
	return Rule{}, false
}

func allowed(r Rule, dir, target string) bool {
	if dir == target {
		return true
	}
	for _, m := range r.May {
		if m == "*" && target != "fuse" && !strings.HasPrefix(target, "cmd/") || match(m, target) {
			return true
		}
	}
	return false
}

// TestImports keeps the arrows of the house going down: a room that comes to
// know another it should not know is the start of every tangle.
func TestImports(t *testing.T) {
	sources(t, func(rel string, set *token.FileSet, file *ast.File) {
		dir := filepath.ToSlash(filepath.Dir(rel))
		r, ok := ruleFor(dir)
		if !ok {
			t.Errorf("%s: room %s has no rule in internal/arch/rules.go", rel, dir)
			return
		}
		for _, imp := range file.Imports {
			path, _ := strconv.Unquote(imp.Path.Value)
			target, ours := strings.CutPrefix(path, module+"/")
			if ours && !allowed(r, dir, target) {
				t.Errorf("%s: %s may not import %s: %s", set.Position(imp.Pos()), dir, target, r.Reason)
			}
		}
	})
}

// TestImportRuleSeesViolation shows that the rule above can fail.
func TestImportRuleSeesViolation(t *testing.T) {
	r, _ := ruleFor("raftshard")
	if allowed(r, "raftshard", "client") || allowed(r, "raftshard", "cdc") {
		t.Fatal("raftshard may import client or cdc, it says")
	}
	r, _ = ruleFor("node")
	if !allowed(r, "node", "raftshard") || allowed(r, "node", "fuse") {
		t.Fatal("the star of node is wrong")
	}
}

// TestPure keeps clock and chance out of what every replica runs: a replica
// that looks at its own clock is a replica that differs.
func TestPure(t *testing.T) {
	seen := 0
	sources(t, func(rel string, set *token.FileSet, file *ast.File) {
		pure := false
		for _, p := range Pure {
			if ok, _ := filepath.Match(p, filepath.ToSlash(rel)); ok {
				pure = true
			}
		}
		if !pure {
			return
		}
		seen++
		for _, imp := range file.Imports {
			switch path, _ := strconv.Unquote(imp.Path.Value); path {
			case "math/rand", "math/rand/v2", "crypto/rand", "os", "net", "runtime":
				t.Errorf("%s: a pure file imports %s", set.Position(imp.Pos()), path)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" &&
					(s.Sel.Name == "Now" || s.Sel.Name == "Since" || s.Sel.Name == "After") {
					t.Errorf("%s: a pure file reads the clock", set.Position(n.Pos()))
				}
			}
			return true
		})
	})
	if seen < 5 {
		t.Fatalf("only %d pure files found: the patterns in rules.go are out of date", seen)
	}
}

// TestSizes keeps files, functions and lines short enough to be read.
func TestSizes(t *testing.T) {
	top := root(t)
	sources(t, func(rel string, set *token.FileSet, file *ast.File) {
		if _, ok := Long[filepath.ToSlash(rel)]; ok {
			return
		}
		if n := set.File(file.Pos()).LineCount(); n > MaxFileLines {
			t.Errorf("%s: %d lines, at most %d", rel, n, MaxFileLines)
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			n := set.Position(f.End()).Line - set.Position(f.Pos()).Line + 1
			if n > MaxFuncLines {
				t.Errorf("%s: %s has %d lines, at most %d", rel, f.Name.Name, n, MaxFuncLines)
			}
		}
		wide(t, top, rel)
	})
}

func wide(t *testing.T, top, rel string) {
	f, err := os.Open(filepath.Join(top, rel))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for line := 1; s.Scan(); line++ {
		text := strings.ReplaceAll(s.Text(), "\t", "    ")
		if n := utf8.RuneCountInString(text); n > MaxColumns && !strings.Contains(text, "http") {
			t.Errorf("%s:%d: %d columns, at most %d", rel, line, n, MaxColumns)
		}
	}
}

// TestPackageComments: every room says what it is.
func TestPackageComments(t *testing.T) {
	said := map[string]bool{}
	sources(t, func(rel string, set *token.FileSet, file *ast.File) {
		dir := filepath.Dir(rel)
		said[dir] = said[dir] || file.Doc != nil
	})
	for dir, ok := range said {
		if !ok {
			t.Errorf("%s has no package comment", dir)
		}
	}
}
