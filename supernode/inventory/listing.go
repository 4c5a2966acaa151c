package inventory

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// The formats of a list of machines.
const (
	FormatCSV = "csv"
	FormatSSH = "ssh-config"
)

const (
	maxContent = 1 << 20 // bytes
	// maxEntries bounds what one list names; what stands behind is a problem.
	maxEntries = 1000
	// maxProblems bounds what is said about one list.
	maxProblems = 100
)

// entry is a machine of a list.
type entry struct {
	line                                        int
	name, address, user, hostKey, hardwareClass string
}

// problems are what was not taken of a list, and why.
type problems struct{ list []problem }

type problem struct {
	line int
	why  string
}

func (p *problems) add(line int, format string, args ...any) {
	if len(p.list) <= maxProblems {
		p.list = append(p.list, problem{line, fmt.Sprintf(format, args...)})
	}
}

// lines are the problems by line, for people.
func (p *problems) lines() (out []string) {
	slices.SortStableFunc(p.list, func(a, b problem) int { return a.line - b.line })
	for n, one := range p.list {
		if n == maxProblems {
			return append(out, "and more")
		}
		out = append(out, fmt.Sprintf("line %d: %s", one.line, one.why))
	}
	return out
}

// readList takes the machines out of a list. The reader is for text that
// anybody wrote: what it does not understand is a problem, and never a guess.
func readList(format, content string) ([]entry, *problems, error) {
	if len(content) > maxContent || !utf8.ValidString(content) {
		return nil, nil, fmt.Errorf("a list of %d bytes is %w: at most %d of UTF-8 are read", len(content), ErrInvalid, maxContent)
	}
	var found []entry
	wrong := &problems{}
	var err error
	switch format {
	case FormatCSV:
		found, err = readCSV(content, wrong)
	case FormatSSH:
		found = readSSH(content, wrong)
	default:
		return nil, nil, fmt.Errorf("the format %.40q is %w: give %s or %s", format, ErrInvalid, FormatCSV, FormatSSH)
	}
	if err != nil {
		return nil, nil, err
	}
	return checkEntries(found, wrong), wrong, nil
}

// checkEntries leaves out what cannot be a server.
func checkEntries(found []entry, wrong *problems) []entry {
	var out []entry
	seen := map[string]bool{}
	for _, e := range found {
		err := checkReach(e.address, e.user, e.hostKey)
		switch {
		case len(out) == maxEntries:
			wrong.add(e.line, "more than %d machines; give the rest in another list", maxEntries)
			return out
		case !hostName(e.name):
			wrong.add(e.line, "the name %.70q is not 1 to %d of letters, digits, . _ and -", e.name, maxHostname)
		case seen[e.name]:
			wrong.add(e.line, "a second %s", e.name)
		case e.address == "":
			wrong.add(e.line, "%s has no address", e.name)
		case err != nil:
			wrong.add(e.line, "%v", err)
		case e.hardwareClass != "" && !plainWord(e.hardwareClass):
			wrong.add(e.line, "the hardware class %.70q is not 1 to %d of letters, digits and . _ - / = :", e.hardwareClass, maxName)
		default:
			seen[e.name] = true
			out = append(out, e)
		}
	}
	return out
}

// columns are those of a CSV list that are read, in any order.
var columns = map[string]func(*entry, string){
	"name":           func(e *entry, s string) { e.name = s },
	"address":        func(e *entry, s string) { e.address = s },
	"user":           func(e *entry, s string) { e.user = s },
	"host_key":       func(e *entry, s string) { e.hostKey = s },
	"hardware_class": func(e *entry, s string) { e.hardwareClass = s },
}

// readCSV reads a list whose first row names the columns.
func readCSV(content string, wrong *problems) (out []entry, err error) {
	r := csv.NewReader(strings.NewReader(strings.TrimPrefix(content, "\ufeff")))
	r.FieldsPerRecord = -1
	r.TrimLeadingSpace = true
	r.Comment = '#'
	header, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("the list is %w: its first row should name the columns, such as name,address: %w", ErrInvalid, err)
	}
	header = slices.Clone(header)
	for n, c := range header {
		header[n] = strings.ToLower(strings.TrimSpace(c))
		if columns[header[n]] == nil {
			wrong.add(1, "the column %.70q is not read", c)
		}
	}
	if !slices.Contains(header, "name") || !slices.Contains(header, "address") {
		return nil, fmt.Errorf("the list is %w: its first row should name the columns name and address, and may name user, host_key and hardware_class", ErrInvalid)
	}
	for len(out) <= maxEntries {
		row, err := r.Read()
		var broken *csv.ParseError
		switch {
		case errors.Is(err, io.EOF):
			return out, nil
		case errors.As(err, &broken):
			wrong.add(broken.StartLine, "%v", broken.Err)
			continue
		case err != nil:
			return nil, fmt.Errorf("read the list: %w", err)
		}
		line, _ := r.FieldPos(0)
		if len(row) > len(header) {
			wrong.add(line, "%d fields under %d columns", len(row), len(header))
			continue
		}
		e := entry{line: line}
		for n, field := range row {
			if set := columns[header[n]]; set != nil {
				set(&e, strings.TrimSpace(field))
			}
		}
		out = append(out, e)
	}
	return out, nil
}
