package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
)

// memoryFile names the groups that have a document, in the folder of the documents. A control plane that is started
// anew finds there whose file is gone: of such a group it cannot keep the last document in force, and must not lift
// its limits.
const memoryFile = ".groups.json"

// memory is the file.
type memory struct {
	Groups []string `json:"groups"`
}

// missing is what keeps a start from being safe: a folder without a document, or a group of the last run without.
func (p *Plane) missing() (faults Faults) {
	groups := p.state.Load().groups
	if len(groups) == 0 {
		faults = append(faults, fmt.Sprintf("%s: there is no document, which lifts every limit: put {} into default.json there if that is meant, or allow it to be empty", p.source.path))
	}
	if !p.source.dir {
		return faults
	}
	file := filepath.Join(p.source.path, memoryFile)
	text, err := readFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return faults
	}
	var last memory
	if err == nil {
		err = json.Unmarshal(text, &last)
	}
	if err != nil {
		return append(faults, fmt.Sprintf("%s: cannot be read, so nobody knows whether a group's file is gone: %v; remove it if none is", file, err))
	}
	for _, name := range last.Groups {
		if _, there := groups[name]; !there && len(groups) > 0 {
			faults = append(faults, fmt.Sprintf("%s: the group %s had a document and its file is gone, which lifts its limits: put it back, or {} in its place if that is meant, or allow it to be empty", p.source.path, name))
		}
	}
	return faults
}

// remember writes down which groups have a document, where that has changed. It is called under p.mu.
func (p *Plane) remember(docs map[string]*document) {
	names := slices.Sorted(maps.Keys(docs))
	if !p.remembers || slices.Equal(names, p.known) {
		return
	}
	text, err := json.Marshal(memory{names})
	if err == nil {
		err = write(filepath.Join(p.source.path, memoryFile), append(text, '\n'))
	}
	if err != nil { // a folder that is mounted for reading, say
		p.log.WithError(err).Warn("groups_not_remembered")
	}
	p.known = names
}
