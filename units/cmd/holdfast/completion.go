// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/holdfast-go/holdfast/reexec/control/command"
)

const completionHelp = `Write what has a shell complete the commands, options and units of holdfast.

  holdfast completion bash >/usr/share/bash-completion/completions/holdfast
  holdfast completion zsh >/usr/share/zsh/vendor-completions/_holdfast
  holdfast completion fish >/usr/share/fish/vendor_completions.d/holdfast.fish

Usage: holdfast completion SHELL

SHELL is bash, zsh or fish. Units are completed from the control sockets in /run,
or with --user in $XDG_RUNTIME_DIR, that the user may see.

Options:
  -h, --help  show this help

` + command.ExitCodesHelp

var shells = map[string]func([]completed) string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}

func completion(args []string, stdout, stderr io.Writer) int {
	c := command.NewFlags("completion", completionHelp, stdout, stderr)
	operands, code, done := c.ReadMixed(args)
	switch {
	case done:
		return code
	case len(operands) != 1:
		return c.Wrong("name the SHELL: bash, zsh or fish")
	}
	script, ok := shells[operands[0]]
	if !ok {
		return c.Wrong("SHELL %q: must be bash, zsh or fish", operands[0])
	}
	if _, err := io.WriteString(stdout, script(completedCommands())); err != nil {
		c.Say("%s: write the script: %v", c.Name(), err)
		return command.ExitFailed
	}
	return command.ExitOK
}

// completed is a command with what can follow it.
type completed struct {
	name, summary string
	options       []item
	words         []string // that an operand can be
	units         bool     // an operand can be a unit
	files         bool     // an operand can be a file
}

func completedCommands() []completed {
	var all []completed
	for _, c := range commands() {
		if c.name == "completion" {
			// Its own help cannot be asked for here: it is made of this.
			all = append(all, completed{name: c.name, summary: c.summary, options: parseHelp(completionHelp).options(), words: []string{"bash", "zsh", "fish"}})
			continue
		}
		p := helpOf(c)
		operand := p.operand()
		all = append(all, completed{
			name: c.name, summary: c.summary, options: p.options(),
			units: strings.HasPrefix(operand, "UNIT"), files: operand == "PROGRAM" || operand == "DIR" || operand == "FILE",
		})
	}
	return all
}

// wordsOf are the values of options that are one of a few words.
var wordsOf = map[string][]string{
	"json": {"short", "pretty", "off"}, "launcher": {"on", "off"},
	"mode": {"overlap", "in-place", "restart"}, "flavour": {"exec-reload", "notify-reload"},
}

// values says what the value of an option can be: one of a few words, a path, or
// anything.
func (it item) values() (words []string, path bool) {
	switch it.value {
	case "PATH", "DIR", "FILE":
		return nil, true
	}
	return wordsOf[it.long], false
}

const bashHead = `# bash completion of holdfast, written by "holdfast completion bash"

_holdfast_units() {
	local root=/run socket name
	[[ " $1 " == *" --user "* ]] && root=${XDG_RUNTIME_DIR:-/run}
	for socket in "$root"/*/control.sock; do
		[[ -S $socket ]] || continue
		name=${socket%/control.sock}
		printf '%s\n' "${name##*/}"
	done
}

_holdfast() {
	# The words are taken from the line: COMP_WORDS is cut at "=" and "@".
	local line=${COMP_LINE:0:COMP_POINT} cur='' command='' flags='' values='' kind='' word cut c
	local -a words
	local commands='COMMANDS'
	read -ra words <<<"$line"
	[[ $line == *[[:space:]] ]] || cur=${words[-1]}
	if ((${#words[@]} > 2)) || { ((${#words[@]} == 2)) && [[ -z $cur ]]; }; then
		command=${words[1]}
	fi
	COMPREPLY=()
	case $command in
`

const bashTail = `	esac
	if [[ -z $command ]]; then
		if [[ $cur == -* ]]; then
			mapfile -t COMPREPLY < <(compgen -W '--help --version' -- "$cur")
		else
			mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$cur")
		fi
		return
	fi
	case $cur in
	--*=*)
		word=${cur%%=*} cur=${cur#*=}
		case $command$word in
VALUES		esac
		case $kind in
		path) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames ;;
		*) mapfile -t COMPREPLY < <(compgen -W "$values" -- "$cur") ;;
		esac
		# Only what follows the last break is replaced.
		[[ $COMP_WORDBREAKS == *=* ]] || COMPREPLY=("${COMPREPLY[@]/#/$word=}")
		return
		;;
	-*)
		mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur")
		[[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
		return
		;;
	esac
	case $kind in
	unit) mapfile -t COMPREPLY < <(compgen -W "$(_holdfast_units "$line")" -- "$cur") ;;
	path) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames ;;
	*) mapfile -t COMPREPLY < <(compgen -W "$values" -- "$cur") ;;
	esac
	for c in @ :; do
		[[ $COMP_WORDBREAKS == *$c* && $cur == *$c* ]] || continue
		cut=${cur%%"${cur##*$c}"}
		COMPREPLY=("${COMPREPLY[@]#"$cut"}")
	done
}

complete -F _holdfast holdfast
`

func bashScript(all []completed) string {
	var b, values strings.Builder
	names := make([]string, len(all))
	for i, c := range all {
		names[i] = c.name
	}
	b.WriteString(strings.Replace(bashHead, "COMMANDS", strings.Join(names, " "), 1))
	for _, c := range all {
		var flags []string
		for _, it := range c.options {
			flag := "--" + it.long
			if it.value != "" {
				flag += "="
				switch words, path := it.values(); {
				case path:
					fmt.Fprintf(&values, "\t\t%s--%s) kind=path ;;\n", c.name, it.long)
				case words != nil:
					fmt.Fprintf(&values, "\t\t%s--%s) kind=words values='%s' ;;\n", c.name, it.long, strings.Join(words, " "))
				default:
					fmt.Fprintf(&values, "\t\t%s--%s) kind=words values='' ;;\n", c.name, it.long)
				}
			}
			flags = append(flags, flag)
			if it.short != "" {
				flags = append(flags, "-"+it.short)
			}
		}
		kind := "words"
		switch {
		case c.units:
			kind = "unit"
		case c.files:
			kind = "path"
		}
		fmt.Fprintf(&b, "\t%s) kind=%s values='%s' flags='%s' ;;\n", c.name, kind, strings.Join(c.words, " "), strings.Join(flags, " "))
	}
	b.WriteString(strings.Replace(bashTail, "VALUES", values.String(), 1))
	return b.String()
}

const zshScriptFrame = `#compdef holdfast
# zsh completion of holdfast, written by "holdfast completion zsh"

_holdfast_units() {
	local root=/run
	local -a units
	(( ${words[(I)--user]} )) && root=${XDG_RUNTIME_DIR:-/run}
	units=($root/*/control.sock(N=:h:t))
	compadd -a units
}

_holdfast() {
	local curcontext=$curcontext state line
	local -a commands
	commands=(
COMMANDS	)
	_arguments -C '(- *)'{-h,--help}'[show the help]' '(- *)--version[show the version]' '1:command:->command' '*::argument:->argument'
	case $state in
	command) _describe command commands ;;
	argument)
		curcontext=${curcontext%%:*:*}:holdfast-$words[1]:
		case $words[1] in
CASES		esac
		;;
	esac
}

# Read by a function path it is the body of the function; else it is sourced.
if [[ $funcstack[1] == _holdfast ]]; then
	_holdfast "$@"
else
	compdef _holdfast holdfast
fi
`

// zshQuote is text inside of single quotes.
func zshQuote(text string) string { return strings.ReplaceAll(text, "'", `'\''`) }

// zshText is a description in a specification of _arguments.
func zshText(text string) string {
	return zshQuote(strings.NewReplacer("[", `\[`, "]", `\]`, ":", `\:`).Replace(text))
}

func zshScript(all []completed) string {
	var names, cases strings.Builder
	for _, c := range all {
		fmt.Fprintf(&names, "\t\t'%s:%s'\n", c.name, zshQuote(strings.ReplaceAll(c.summary, ":", `\:`)))
		fmt.Fprintf(&cases, "\t\t%s)\n\t\t\t_arguments -s", c.name)
		for _, it := range c.options {
			text := zshText(it.text)
			switch words, path := it.values(); {
			case it.value == "" && it.short != "":
				fmt.Fprintf(&cases, " \\\n\t\t\t\t'(-%s --%s)'{-%s,--%s}'[%s]'", it.short, it.long, it.short, it.long, text)
			case it.value == "":
				fmt.Fprintf(&cases, " \\\n\t\t\t\t'--%s[%s]'", it.long, text)
			default:
				action := ""
				switch {
				case path:
					action = "_files"
				case words != nil:
					action = "(" + strings.Join(words, " ") + ")"
				}
				repeat := ""
				if strings.Contains(it.text, "may be repeated") {
					repeat = "*"
				}
				fmt.Fprintf(&cases, " \\\n\t\t\t\t'%s--%s=[%s]:%s:%s'", repeat, it.long, text, strings.ReplaceAll(it.value, ":", `\:`), action)
			}
		}
		switch {
		case c.units:
			cases.WriteString(" \\\n\t\t\t\t'*:unit:_holdfast_units'")
		case c.files:
			cases.WriteString(" \\\n\t\t\t\t'*:file:_files'")
		case c.words != nil:
			fmt.Fprintf(&cases, " \\\n\t\t\t\t'1:word:(%s)'", strings.Join(c.words, " "))
		}
		cases.WriteString("\n\t\t\t;;\n")
	}
	return strings.NewReplacer("COMMANDS", names.String(), "CASES", cases.String()).Replace(zshScriptFrame)
}

const fishHead = `# fish completion of holdfast, written by "holdfast completion fish"

function __holdfast_units
    set -l root /run
    contains -- --user (commandline -opc); and set -q XDG_RUNTIME_DIR; and set root $XDG_RUNTIME_DIR
    for socket in $root/*/control.sock
        test -S $socket; and string replace -r '.*/([^/]+)/control\.sock$' '$1' $socket
    end
end

complete -c holdfast -f
complete -c holdfast -n __fish_use_subcommand -s h -l help -d 'show the help'
complete -c holdfast -n __fish_use_subcommand -l version -d 'show the version'
`

// fishQuote is a word for fish.
func fishQuote(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(text) + "'"
}

func fishScript(all []completed) string {
	var b strings.Builder
	b.WriteString(fishHead)
	for _, c := range all {
		fmt.Fprintf(&b, "\ncomplete -c holdfast -n __fish_use_subcommand -a %s -d %s\n", c.name, fishQuote(c.summary))
		on := "complete -c holdfast -n '__fish_seen_subcommand_from " + c.name + "'"
		for _, it := range c.options {
			b.WriteString(on)
			if it.short != "" {
				b.WriteString(" -s " + it.short)
			}
			b.WriteString(" -l " + it.long)
			if it.value != "" {
				switch words, path := it.values(); {
				case path:
					b.WriteString(" -r -F")
				case words != nil:
					b.WriteString(" -x -a " + fishQuote(strings.Join(words, " ")))
				default:
					b.WriteString(" -x")
				}
			}
			b.WriteString(" -d " + fishQuote(it.text) + "\n")
		}
		switch {
		case c.units:
			b.WriteString(on + " -a '(__holdfast_units)'\n")
		case c.files:
			b.WriteString(on + " -F\n")
		case c.words != nil:
			b.WriteString(on + " -a " + fishQuote(strings.Join(c.words, " ")) + "\n")
		}
	}
	return b.String()
}
