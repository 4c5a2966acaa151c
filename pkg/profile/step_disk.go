package profile

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/shoalproject/shoal/pkg/settings"
)

// diskStep looks whether folders lie on disks as they are to. Each setting is
// a folder ("data" is the agent's own) and what is asked of it, in words:
//
//	size=100GB   of its file system
//	free=20GB    of that, for the agent
//	mount        it is a mount point of its own
//	fs=ext4|xfs  of one of these kinds
type diskStep struct {
	host    *Host
	folders []folderWish
}

type folderWish struct {
	name       string
	size, free settings.Size
	mount      bool
	kinds      []string
}

func newDiskStep(h *Host, v *values) Step {
	s := &diskStep{host: h}
	all := v.rest()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		wish, err := parseFolderWish(name, all[name])
		if err != nil {
			v.wrong("%w", err)
		}
		s.folders = append(s.folders, wish)
	}
	return s
}

func parseFolderWish(name, words string) (folderWish, error) {
	wish := folderWish{name: name}
	if name != "data" && (!path.IsAbs(name) || path.Clean(name) != name) {
		return wish, fmt.Errorf("setting %q is neither a folder from the root nor \"data\"", name)
	}
	for _, word := range strings.Fields(words) {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "size":
			err = wish.size.UnmarshalText([]byte(value))
		case "free":
			err = wish.free.UnmarshalText([]byte(value))
		case "mount":
			wish.mount = true
		case "fs":
			wish.kinds = strings.Split(value, "|")
		default:
			err = fmt.Errorf("want size=, free=, mount or fs=, got %q", word)
		}
		if err != nil {
			return wish, fmt.Errorf("setting %q: %w", name, err)
		}
	}
	return wish, nil
}

// Check implements Step.
func (s *diskStep) Check(context.Context) (Found, error) {
	// A root that is only a folder has no /proc, and no mounts of its own.
	raw, err := s.host.readProc("/proc/self/mountinfo")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Found{}, err
	}
	mounts := parseMounts(raw)
	var said []string
	holds := true
	for _, wish := range s.folders {
		folder := wish.name
		if folder == "data" {
			folder = s.host.Data
		}
		state, err := s.host.lookAt(folder, mounts)
		if err != nil {
			return Found{Output: lines(said...)}, err
		}
		lacks := wish.lacks(state)
		holds = holds && len(lacks) == 0
		said = append(said, lines(state.String(),
			strings.Join(lacks, "\n")))
	}
	return Found{Holds: holds, Output: lines(said...)}, nil
}

// Apply implements Step: disks are a person's to divide.
func (s *diskStep) Apply(context.Context) (string, error) {
	return "", errors.New("disks are only looked at: put this in order by hand, or ask for less in the profile")
}

// folderState is what was found of a folder.
type folderState struct {
	folder, mount, kind string
	size, free          int64
}

func (s folderState) String() string {
	out := fmt.Sprintf("%s: %s of %s free", s.folder, size(s.free), size(s.size))
	if s.mount != "" {
		out += fmt.Sprintf(", %s mounted at %s", s.kind, s.mount)
	}
	return out
}

func (w folderWish) lacks(s folderState) []string {
	var out []string
	if s.size < int64(w.size) {
		out = append(out, fmt.Sprintf("  its file system has %s, which is less than %s", size(s.size), size(int64(w.size))))
	}
	if s.free < int64(w.free) {
		out = append(out, fmt.Sprintf("  %s are free, which is less than %s", size(s.free), size(int64(w.free))))
	}
	if w.mount && s.mount != s.folder {
		out = append(out, "  it is no mount point of its own")
	}
	if len(w.kinds) > 0 && !slices.Contains(w.kinds, s.kind) {
		out = append(out, fmt.Sprintf("  it is %s, which is not %s", s.kind, strings.Join(w.kinds, " or ")))
	}
	return out
}

func (h *Host) lookAt(folder string, mounts []mount) (folderState, error) {
	out := folderState{folder: folder}
	full := h.path(folder)
	if folder == h.Data {
		full = folder
	}
	var st unix.Statfs_t
	if err := unix.Statfs(full, &st); err != nil {
		return out, fmt.Errorf("look at the file system of %s: %w", folder, err)
	}
	out.size, out.free = int64(st.Blocks)*int64(st.Bsize), int64(st.Bavail)*int64(st.Bsize)
	for _, m := range mounts {
		inside := m.point == "/" || folder == m.point || strings.HasPrefix(folder, m.point+"/")
		if inside && len(m.point) >= len(out.mount) {
			out.mount, out.kind = m.point, m.kind // the later one lies over the earlier
		}
	}
	return out, nil
}

// mount is a line of /proc/self/mountinfo, as far as it matters.
type mount struct{ point, kind string }

// parseMounts reads proc_pid_mountinfo(5); lines that it cannot read are left
// out.
func parseMounts(raw []byte) []mount {
	var out []mount
	for scan := bufio.NewScanner(bytes.NewReader(raw)); scan.Scan(); {
		before, after, found := strings.Cut(scan.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if found && len(fields) > 4 && len(kind) > 0 {
			out = append(out, mount{unescapeMount.Replace(fields[4]), kind[0]})
		}
	}
	return out
}

var unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// size shows bytes in GB with one digit, which is how disks are sold.
func size(n int64) string { return fmt.Sprintf("%.1f GB", float64(n)/1e9) }
