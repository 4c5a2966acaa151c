package profile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"

	"github.com/shoalproject/shoal/pkg/durable"
)

const (
	keysBegin = "# begin of the keys that the pool's profile gives; do not edit\n"
	keysEnd   = "# end of the keys that the pool's profile gives\n"
	// maxKeys bounds one step's keys.
	maxKeys = 256

	authorizedKeys = "authorized_keys"
)

// sshKeysStep keeps administrators' public keys as a block in one user's
// authorized_keys, and everything outside of the block as it is.
type sshKeysStep struct {
	host *Host
	user string
	keys []string
}

func newSSHKeysStep(h *Host, v *values) Step {
	s := &sshKeysStep{host: h, user: v.text("user", "root")}
	if s.user == "" || strings.ContainsAny(s.user, ":/\n\x00") {
		v.wrong("setting \"user\" is %q, which is no name of a user", s.user)
	}
	for line := range strings.Lines(v.text("keys", "")) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)); err != nil || strings.ContainsFunc(line, notPrinted) {
			v.wrong("setting \"keys\" has a line %d that is no public key as in authorized_keys", len(s.keys)+1)
		}
		s.keys = append(s.keys, line)
	}
	if len(s.keys) > maxKeys {
		v.wrong("setting \"keys\" has %d keys; %d are the most", len(s.keys), maxKeys)
	}
	return s
}

// notPrinted are the characters that could hide a part of a line.
func notPrinted(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// account is a line of passwd(5), as far as it matters.
type account struct {
	uid, gid int
	home     string
}

func parsePasswd(raw []byte, user string) (account, error) {
	for line := range strings.Lines(string(raw)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) < 7 || f[0] != user {
			continue
		}
		uid, err := strconv.ParseUint(f[2], 10, 31)
		gid, err2 := strconv.ParseUint(f[3], 10, 31)
		if err := errors.Join(err, err2); err != nil || !path.IsAbs(f[5]) {
			return account{}, fmt.Errorf("/etc/passwd has a line of user %s that cannot be used", user)
		}
		return account{int(uid), int(gid), f[5]}, nil
	}
	return account{}, fmt.Errorf("there is no user %s on this host: make one, or name another by the setting \"user\"", user)
}

func (s *sshKeysStep) account() (account, error) {
	raw, err := s.host.read("/etc/passwd")
	if err != nil {
		return account{}, err
	}
	return parsePasswd(raw, s.user)
}

// withKeys is a file with its block of keys replaced; without keys there is no
// block. Bytes outside of the block stay. A block whose end somebody took away
// is not ours to guess.
func withKeys(have []byte, keys []string) ([]byte, error) {
	block := []byte{}
	if len(keys) > 0 {
		block = []byte(keysBegin + strings.Join(keys, "\n") + "\n" + keysEnd)
	}
	before, rest, found := bytes.Cut(have, []byte(keysBegin))
	if !found {
		if len(block) > 0 && len(have) > 0 && !bytes.HasSuffix(have, []byte("\n")) {
			have = append(have[:len(have):len(have)], '\n')
		}
		return append(have[:len(have):len(have)], block...), nil
	}
	_, after, found := bytes.Cut(rest, []byte(keysEnd))
	if !found || bytes.Contains(after, []byte(keysBegin)) {
		return nil, fmt.Errorf("%w: the block of keys was edited; take its first and last line away by hand", errForeign)
	}
	return bytes.Join([][]byte{before, block, after}, nil), nil
}

// home opens the user's home. Nothing below it is trusted to stay what it
// was: its owner may put links there, which os.Root does not follow out of it.
func (s *sshKeysStep) home(a account) (*os.Root, error) {
	root, err := os.OpenRoot(s.host.path(a.home))
	if err != nil {
		return nil, fmt.Errorf("open the home of %s: %w", s.user, err)
	}
	return root, nil
}

// sshFolder opens .ssh; nil when there is none. A link in its place is refused:
// what it leads to would be given to the user.
func sshFolder(home *os.Root, a account) (*os.Root, error) {
	info, err := home.Lstat(".ssh")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.IsDir() || !ownedBy(info, a):
		return nil, fmt.Errorf("%w: .ssh is not a folder that belongs to its user", errForeign)
	}
	return home.OpenRoot(".ssh")
}

func ownedBy(info fs.FileInfo, a account) bool {
	sys, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(sys.Uid) == a.uid
}

// keysFile reads authorized_keys and reports whether sshd would take it. A file
// of somebody else, be it by a link, is refused: its bytes would go into one
// that the user may read.
func keysFile(folder *os.Root, a account) (have []byte, safe bool, err error) {
	if _, err := folder.Lstat(authorizedKeys); errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	f, err := folder.OpenFile(authorizedKeys, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, false, fmt.Errorf("open authorized_keys: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, false, fmt.Errorf("look at authorized_keys: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile || !ownedBy(info, a) {
		return nil, false, fmt.Errorf("%w: .ssh/authorized_keys is not a regular file that belongs to its user", errForeign)
	}
	have, err = io.ReadAll(io.LimitReader(f, maxFile))
	return have, info.Mode().Perm()&0o022 == 0, err
}

// Check implements Step.
func (s *sshKeysStep) Check(context.Context) (Found, error) {
	a, err := s.account()
	if err != nil {
		return Found{}, err
	}
	have, safe, err := s.look(a)
	if err != nil {
		return Found{}, err
	}
	want, err := withKeys(have, s.keys)
	if err != nil {
		return Found{}, err
	}
	same := bytes.Equal(have, want)
	switch {
	case same && len(s.keys) == 0:
		return Found{Holds: true, Output: "the profile gives no keys (setting \"keys\")"}, nil
	case same && safe:
		return Found{Holds: true, Output: fmt.Sprintf("the %d keys are in the authorized_keys of %s", len(s.keys), s.user)}, nil
	case same:
		return Found{Output: "others than its user may write authorized_keys: sshd would not take it"}, nil
	}
	return Found{Output: fmt.Sprintf("the block in the authorized_keys of %s is to hold %d keys:\n%s", s.user, len(s.keys), strings.Join(s.keys, "\n"))}, nil
}

func (s *sshKeysStep) look(a account) (have []byte, safe bool, err error) {
	home, err := s.home(a)
	if err != nil {
		return nil, false, err
	}
	defer home.Close()
	folder, err := sshFolder(home, a)
	if folder == nil || err != nil {
		return nil, false, err
	}
	defer folder.Close()
	return keysFile(folder, a)
}

// Apply implements Step.
func (s *sshKeysStep) Apply(context.Context) (string, error) {
	a, err := s.account()
	if err != nil {
		return "", err
	}
	home, err := s.home(a)
	if err != nil {
		return "", err
	}
	defer home.Close()
	if err := home.Mkdir(".ssh", 0o700); err == nil {
		err = home.Lchown(".ssh", a.uid, a.gid)
		if err != nil {
			return "", fmt.Errorf("give .ssh to %s: %w", s.user, err)
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make .ssh: %w", err)
	}
	folder, err := sshFolder(home, a)
	if err != nil {
		return "", err
	}
	defer folder.Close()
	have, _, err := keysFile(folder, a)
	if err != nil {
		return "", err
	}
	want, err := withKeys(have, s.keys)
	if err != nil {
		return "", err
	}
	// The file belongs to its user before it has its name: sshd would refuse
	// it in between.
	const fresh = ".authorized_keys.shoal"
	err = durable.WriteFileIn(folder, fresh, want, 0o600)
	if err == nil {
		err = folder.Lchown(fresh, a.uid, a.gid)
	}
	if err == nil {
		err = durable.RenameIn(folder, fresh, authorizedKeys)
	}
	if err != nil {
		return "", fmt.Errorf("write authorized_keys: %w", err)
	}
	return fmt.Sprintf("wrote the authorized_keys of %s", s.user), nil
}
