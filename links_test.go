package house

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestLinks: whatever a page, a comment or a decision points at is there: links and their anchors, paths of
// files and folders, decisions by number, sections of the contract. Method: every text of the repository is
// searched for what looks like one of these. A path may be said from the text's own folder or from the root.
func TestLinks(t *testing.T) {
	var found int
	for _, file := range texts() {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := said(file, raw)
		for _, kind := range pointers {
			if kind.in != "" && filepath.Ext(file) != kind.in {
				continue
			}
			for _, at := range kind.pattern.FindAllSubmatchIndex(text, -1) {
				found++
				if what := string(text[at[2]:at[3]]); !kind.there(file, what) {
					t.Errorf("%s:%d: %s is not there", file, 1+bytes.Count(text[:at[2]], []byte("\n")), what)
				}
			}
		}
	}
	if found < 300 {
		t.Errorf("only %d pointers were found", found)
	}
}

// pointers are the forms in which a text points at another one. The first group is what it points at.
var pointers = []struct {
	in      string // only in files that end so; "" is all
	pattern *regexp.Regexp
	there   func(file, what string) bool
}{
	{".md", regexp.MustCompile(`\]\(([^)\s]+)\)`), linked},
	{"", regexp.MustCompile(`(?:^|[\s"'(\[` + "`" + `])((?:` + rooms + `)/[\w./-]*[\w])`), exists},
	{"", regexp.MustCompile(`(?:^|[\s"'(\[` + "`" + `])([a-z][\w/-]*\.(?:go|md|proto|txtar|txt))\b`), exists},
	{"", regexp.MustCompile(`decisions?[/ ](\d{3})`), decided},
	{"", regexp.MustCompile(`CONTRACT(?:'s)? §(\d+)`), inContract},
}

// rooms are the top-level folders.
const rooms = `\.ci|bench|cmd|config|docs|e2e|filters|host|ledger|proxy|wallet|xds`

// everything is each file of the repository but those of tools and test data, by its path.
var everything = sync.OnceValue(func() (all []string) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "node_modules", "bin", "testdata"}, d.Name()):
			return filepath.SkipDir
		case !d.IsDir():
			all = append(all, path)
		}
		return nil
	})
	if err != nil {
		panic(err)
	}
	return all
})

// texts are the files that people read.
func texts() (all []string) {
	for _, path := range everything() {
		read := []string{".go", ".md", ".proto", ".yaml", ".yml"}
		if path != "links_test.go" && !strings.HasSuffix(path, ".pb.go") &&
			(slices.Contains(read, filepath.Ext(path)) || path == "Makefile" || path == ".ci/run") {
			all = append(all, path)
		}
	}
	return all
}

// said is what a file says to people: of code its comments, with all else blank.
func said(file string, text []byte) []byte {
	if ext := filepath.Ext(file); ext != ".go" && ext != ".proto" {
		return text
	}
	lines := bytes.Split(text, []byte("\n"))
	for i, line := range lines {
		_, comment, _ := bytes.Cut(line, []byte("//"))
		lines[i] = comment
	}
	return bytes.Join(lines, []byte("\n"))
}

// linked resolves a link of a page, with its anchor.
func linked(file, to string) bool {
	if strings.Contains(to, "://") {
		return true // the web is nobody's to test
	}
	path, anchor, _ := strings.Cut(to, "#")
	target := file
	if path != "" {
		target = filepath.Join(filepath.Dir(file), path)
	}
	text, err := os.ReadFile(target)
	if err != nil {
		info, statErr := os.Stat(target)
		return statErr == nil && info.IsDir() && anchor == ""
	}
	return anchor == "" || slices.Contains(anchors(text), anchor)
}

// anchors are those that a page's headings have on the forge.
func anchors(page []byte) (all []string) {
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllSubmatch(page, -1) {
		plain := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(string(heading[1])), "")
		all = append(all, strings.ReplaceAll(plain, " ", "-"))
	}
	return all
}

// exists resolves a path from the root or from the folder of the file that names it. A bare name may be
// that of any file, and a decision is known by its number.
func exists(file, path string) bool {
	if strings.HasSuffix(path, ".gen.go") { // made when it is needed, and not kept
		return true
	}
	for _, p := range []string{path, filepath.Join(filepath.Dir(file), path)} {
		if _, err := os.Stat(p); err == nil {
			return true
		}
	}
	if number, ok := strings.CutPrefix(path, "docs/decisions/"); ok && len(number) == 3 {
		return decided(file, number)
	}
	return !strings.Contains(path, "/") && slices.ContainsFunc(everything(), func(p string) bool { return filepath.Base(p) == path })
}

func decided(_, number string) bool {
	found, err := filepath.Glob("docs/decisions/" + number + "-*.md")
	return err == nil && len(found) == 1
}

// inContract resolves a section of docs/contract.md.
func inContract(_, section string) bool {
	text, err := os.ReadFile("docs/contract.md")
	return err == nil && bytes.Contains(text, []byte("\n## "+section+". "))
}
