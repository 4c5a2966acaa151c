package ssh

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"os"
)

// machines are uname(1)'s names of what an ELF file is for.
var machines = map[elf.Machine]string{
	elf.EM_X86_64:  "x86_64",
	elf.EM_AARCH64: "aarch64",
	elf.EM_RISCV:   "riscv64",
	elf.EM_PPC64:   "ppc64le",
	elf.EM_S390:    "s390x",
}

// Program is the agent's program as it is sent to hosts. Close it.
type Program struct {
	file    *os.File
	sum     string // SHA-256, hex
	machine string // as uname -m says it; "" for one that runs everywhere, such as a script
}

// OpenProgram opens the agent's program and hashes it. The file is held open,
// so that what is sent is what was hashed.
func OpenProgram(path string) (*Program, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the agent's program: %w; name it with --agent-binary", err)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		f.Close()
		return nil, fmt.Errorf("read the agent's program %s: %w", path, err)
	}
	p := &Program{file: f, sum: hex.EncodeToString(sum.Sum(nil))}
	if e, err := elf.NewFile(f); err == nil {
		p.machine = machines[e.Machine]
	}
	return p, nil
}

// Close closes the file.
func (p *Program) Close() error { return p.file.Close() }

func (p *Program) content() (io.Reader, error) {
	info, err := p.file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the agent's program: %w", err)
	}
	return io.NewSectionReader(p.file, 0, info.Size()), nil
}
