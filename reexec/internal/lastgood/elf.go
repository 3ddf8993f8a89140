// SPDX-License-Identifier: Apache-2.0

package lastgood

import (
	"debug/elf"
	"fmt"
	"os"
	"runtime"
)

var machines = map[string]elf.Machine{
	"386": elf.EM_386, "amd64": elf.EM_X86_64, "arm": elf.EM_ARM, "arm64": elf.EM_AARCH64,
	"loong64": elf.EM_LOONGARCH, "mips": elf.EM_MIPS, "mipsle": elf.EM_MIPS,
	"mips64": elf.EM_MIPS, "mips64le": elf.EM_MIPS, "ppc64": elf.EM_PPC64,
	"ppc64le": elf.EM_PPC64, "riscv64": elf.EM_RISCV, "s390x": elf.EM_S390,
}

// CheckELF says what is wrong with a program as far as its headers tell: no ELF
// file, for another machine, no executable, or shorter than its segments. A
// program that is cut off may well execute, and dies when it reaches what is
// missing. The errors name path.
func CheckELF(file *os.File, path string) error {
	f, err := elf.NewFile(file)
	if err != nil {
		return fmt.Errorf("%s is not an ELF executable: %w", path, err)
	}
	if want, ok := machines[runtime.GOARCH]; ok && f.Machine != want {
		return fmt.Errorf("%s is built for %v, this machine is %v", path, f.Machine, want)
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return fmt.Errorf("%s is of ELF type %v, not an executable", path, f.Type)
	}
	st, err := file.Stat()
	if err != nil {
		return err
	}
	for _, p := range f.Progs {
		if end := p.Off + p.Filesz; p.Type == elf.PT_LOAD && (end < p.Off || end > uint64(st.Size())) {
			return fmt.Errorf("%s is cut off: it has %d bytes and should have %d or more: put new versions in place by rename", path, st.Size(), end)
		}
	}
	return nil
}
