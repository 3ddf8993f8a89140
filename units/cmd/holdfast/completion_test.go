// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control/command"
)

// completers write what a shell would offer for each line of $INPUT, one on a line,
// after a line "LINE". $SCRIPT is the completion script.
var completers = map[string]string{
	"bash": `source "$SCRIPT"
		compopt() { :; }
		while IFS= read -r COMP_LINE; do
			COMP_POINT=${#COMP_LINE}
			_holdfast
			printf '%s\n' LINE "${COMPREPLY[@]}"
		done <<<"$INPUT"`,
	// An interactive zsh in a terminal of its own, whose compadd tells what it adds.
	"zsh": `zmodload zsh/zpty
		lines=("${(@f)INPUT}"); unset INPUT
		zpty z zsh -f -i
		zpty -w z "PROMPT= ; stty -echo; fpath=(${(q)SCRIPT:h} \$fpath); autoload -Uz compinit; compinit -u -D
			complete-and-tell() { zle complete-word; print -l -- '' DONE; }
			zle -N complete-and-tell; bindkey '^I' complete-and-tell; zstyle ':completion:*' menu no; setopt no_beep no_list_beep
			compadd() {
				local -a hits told
				if [[ \${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd \"\$@\"; return; fi
				builtin compadd -A hits \"\$@\"
				print -rl -- \"\" \"HIT:\"\$^hits; builtin compadd \"\$@\"
			}
			echo REA\"\"DY"
		while zpty -r z text; do [[ $text == *READY* ]] && break; done
		for line in $lines; do
			# zsh completes nothing while there is more to read.
			zpty -w -n z $'\C-u'"$line"$'\t'
			all= ; while zpty -r z text; do all+=$text; [[ $text == *DONE* ]] && break; done
			print LINE; print -r -- ${all//$'\r'/} | sed -n 's/^HIT:\(.\)/\1/p'
		done
		zpty -d z`,
	"fish": `source $SCRIPT
		for line in (string split \n $INPUT)
			echo LINE; complete -C $line | string replace -r '\t.*' ''
		end; true`,
}

// Each shell offers what there is, and nothing else.
func TestCompletion(t *testing.T) {
	root := t.TempDir()
	for _, unit := range []string{"myapp", "myapp@1", "other"} {
		if err := os.Mkdir(filepath.Join(root, unit), 0o755); err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("unix", filepath.Join(root, unit, "control.sock"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
	}
	for shell := range shells {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			need(t, shell)
			script := filepath.Join(t.TempDir(), "_holdfast")
			o := runCommand(t.Context(), "completion", shell)
			o.Want(t, command.ExitOK, "completion of holdfast", "")
			if err := os.WriteFile(script, []byte(o.Stdout), 0o644); err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, c := range commands() {
				names = append(names, c.name)
			}
			tests := []struct {
				line string
				want []string
			}{
				{"holdfast ", names},
				{"holdfast re", []string{"reload", "render", "retry"}},
				{"holdfast upgrade --max", []string{"--max-error-rate", "--max-failures", "--max-failed"}},
				{"holdfast status --json=", []string{"short", "pretty", "off"}},
				{"holdfast render --mode=in", []string{"in-place"}},
				{"holdfast upgrade --user --canary=1 my", []string{"myapp", "myapp@1"}},
				{"holdfast upgrade --user myapp@", []string{"myapp@1"}},
				{"holdfast history --user ", []string{"myapp", "myapp@1", "other"}},
				{"holdfast completion ", []string{"bash", "zsh", "fish"}},
				{"holdfast thaw --qu", []string{"--quiet"}},
			}
			var lines []string
			for _, tt := range tests {
				lines = append(lines, tt.line)
			}
			got := complete(t, shell, script, root, lines)
			for i, tt := range tests {
				if !slices.Equal(got[i], sorted(tt.want)) {
					t.Errorf("%q: offers %q, want %q", tt.line, got[i], sorted(tt.want))
				}
			}
		})
	}
	runCommand(t.Context(), "completion").Want(t, command.ExitUsage, "", "name the SHELL: bash, zsh or fish")
	runCommand(t.Context(), "completion", "tcsh").Want(t, command.ExitUsage, "", `SHELL "tcsh": must be bash, zsh or fish`)
}

// complete asks a shell for each of the lines; what differs between the shells by
// design is made the same.
func complete(t *testing.T, shell, script, root string, lines []string) [][]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), shell, "-c", completers[shell])
	cmd.Env = append(os.Environ(), "SCRIPT="+script, "INPUT="+strings.Join(lines, "\n"), "XDG_RUNTIME_DIR="+root, "HOME="+t.TempDir(), "TERM=dumb", "COLUMNS=400", "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", shell, err, out)
	}
	all := strings.Split(string(out), "LINE\n")[1:]
	if len(all) != len(lines) {
		t.Fatalf("%s: %d answers to %d lines:\n%s", shell, len(all), len(lines), out)
	}
	offers := make([][]string, len(lines))
	for i, text := range all {
		for offer := range strings.Lines(text) {
			offer = strings.TrimSpace(offer)
			// fish repeats the option before a value; bash says that there is one.
			if option, value, ok := strings.Cut(offer, "="); ok && value != "" {
				offer = value
			} else if ok {
				offer = option
			}
			// The rest of a word that the shell breaks at "@".
			if head, ok := strings.CutSuffix(lines[i], "@"); ok && shell == "bash" {
				offer = head[strings.LastIndex(head, " ")+1:] + "@" + offer
			}
			if offer != "" {
				offers[i] = append(offers[i], offer)
			}
		}
		offers[i] = sorted(offers[i])
	}
	return offers
}

func sorted(words []string) []string {
	words = slices.Clone(words)
	slices.Sort(words)
	return slices.Compact(words)
}

// need fails for root where a program is missing, since make test installs it, and
// skips for others.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Geteuid() == 0 {
		t.Fatalf("%s is not installed: sh .ci/install", program)
	}
	t.Skipf("%s is not installed: as root, sh .ci/install installs it", program)
}
