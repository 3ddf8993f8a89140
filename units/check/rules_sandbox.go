// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-go/holdfast/units/unitfile"
)

// pathsOf are the paths of an option with a list of them, each with its assignment. A "-" in
// front ignores what is missing, and a "+" is relative to the root of the service.
func (s *subject) pathsOf(key string) (paths []string, at []setting) {
	for _, a := range s.service.all("Service", key) {
		words, err := unitfile.QuotedWords(s.service.expand(a.value))
		if err != nil {
			continue
		}
		for _, w := range words {
			paths = append(paths, path.Clean(strings.TrimLeft(w, "-+")))
			at = append(at, a)
		}
	}
	return paths, at
}

// executesItself says whether a new version of the service can come into the sandbox
// of the old one.
func (s *subject) executesItself() bool {
	return s.is(hot) || s.is(other) && (len(s.service.commands("ExecReload")) > 0 || s.service.value("Service", "Type", "") == "forking")
}

// forOther is what a sentence about other services begins with.
func (s *subject) forOther(why string) string {
	if s.is(other) {
		return "if the service upgrades by executing its file again: " + why
	}
	return why
}

// isFile says whether a path is that of a file, as far as can be known: by what is there, else by
// its being a program.
func (s *subject) isFile(p string) bool {
	if info, err := s.stat(p); err == nil {
		return info.Mode().IsRegular()
	}
	return slices.Contains(s.programs(), p)
}

func (s *subject) stat(p string) (fs.FileInfo, error) {
	resolved, err := s.files.resolve(p)
	if err != nil {
		return nil, err
	}
	return fs.Stat(s.files.files, strings.TrimPrefix(resolved, "/"))
}

// execPaths: a file is a mount of its own, which keeps the file that was there at the start.
func execPaths(s *subject) {
	if !s.executesItself() {
		return
	}
	paths, at := s.pathsOf("ExecPaths")
	instead := slices.Clone(paths)
	why := make(map[int]string)
	for i, p := range paths {
		switch {
		case slices.Contains(s.programs(), p) && s.isFile(p):
			if slices.ContainsFunc(paths, func(other string) bool { return other != p && under(p, other) }) {
				continue
			}
			instead[i] = path.Dir(p)
			why[i] = p + " stays the file that was there at the start: after a package has replaced it, the new one cannot be executed (EACCES); name its directory"
		case s.isLink(p) && slices.ContainsFunc(s.programs(), func(program string) bool { return under(program, p) }):
			target, err := s.files.resolve(p)
			if err != nil {
				continue
			}
			instead[i] = path.Dir(target)
			why[i] = fmt.Sprintf("%s is a symbolic link to %s, which is followed at the start only: after it was switched, the new version cannot be executed; name the directory that holds all versions", p, target)
		}
	}
	for i := range paths {
		if why[i] != "" {
			s.report(Error, at[i], s.forOther(why[i]), s.list("ExecPaths", instead))
		}
	}
}

// list is the line for a list of paths.
func (s *subject) list(key string, paths []string) string {
	var all []string
	for _, p := range paths {
		if rest, ok := strings.CutPrefix(p, "/var/lib/"); ok {
			p = "%S/" + rest
		}
		if p = s.inUnit(p); !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return assignment(key, strings.Join(all, " "))
}

// mergedUsr are links on every machine today, and are never switched.
var mergedUsr = []string{"/bin", "/sbin", "/lib", "/lib64", "/usr/sbin", "/var/run"}

// isLink says whether a path has a symbolic link in it.
func (s *subject) isLink(p string) bool {
	for d := p; d != "/" && d != "."; d = path.Dir(d) {
		if slices.Contains(mergedUsr, d) {
			continue
		}
		if _, err := fs.ReadLink(s.files.files, strings.TrimPrefix(d, "/")); err == nil {
			return true
		}
	}
	return false
}

// noExecPaths: what the service executes must be allowed.
func noExecPaths(s *subject) {
	denied, at := s.pathsOf("NoExecPaths")
	allowed, _ := s.pathsOf("ExecPaths")
	// The longest one that holds the path counts.
	longest := func(paths []string, file string) (n, i int) {
		n, i = -1, -1
		for j, p := range paths {
			if under(file, p) && len(p) > n {
				n, i = len(p), j
			}
		}
		return n, i
	}
	look := func(file string) (setting, bool) {
		no, i := longest(denied, file)
		yes, _ := longest(allowed, file)
		if no < 0 || yes >= no {
			return setting{}, false
		}
		return at[i], true
	}
	for _, p := range s.programs() {
		if a, refused := look(p); refused {
			s.report(Error, a, p+" may not be executed", "ExecPaths="+path.Dir(p))
		}
	}
	if s.launch == nil {
		return
	}
	if dir := s.launchState(); dir != "" {
		if a, refused := look(dir + "/good"); refused {
			s.report(Warning, a, "holdfast launch keeps a copy of the last good version in "+dir+", which may not be executed: it cannot start instead of a version that fails", s.list("ExecPaths", []string{dir}))
		}
	}
}

// dynamicUser: systemd mounts such a state directory without execution where the file system
// can map users, seen with 257 and 262 on ext4.
func dynamicUser(s *subject) {
	if s.launch == nil || !s.service.yes("Service", "DynamicUser", false) {
		return
	}
	at, _ := s.service.last("Service", "DynamicUser")
	allowed, _ := s.pathsOf("ExecPaths")
	denied, _ := s.pathsOf("NoExecPaths") // of which noExecPaths speaks
	dir := s.launchState()
	if dir == "" || slices.ContainsFunc(slices.Concat(allowed, denied), func(p string) bool { return under(dir+"/good", p) }) {
		return
	}
	s.report(Warning, at, "holdfast launch keeps a copy of the last good version in "+dir+", which is mounted without execution: it cannot start instead of a version that fails", s.list("ExecPaths", []string{dir}))
}

// launchState is where holdfast launch keeps its record.
func (s *subject) launchState() string {
	if s.launch.state != "" {
		return path.Clean(s.launch.state)
	}
	for _, w := range s.service.words("Service", "StateDirectory") {
		name, _, _ := strings.Cut(w, ":")
		return path.Join("/var/lib", name, "holdfast")
	}
	return ""
}

// bindPaths: a mount of a file is a mount of what the file was at the start.
func bindPaths(s *subject) {
	if !s.executesItself() {
		return
	}
	temporary, _ := s.pathsOf("TemporaryFileSystem")
	for i := range temporary {
		temporary[i], _, _ = strings.Cut(temporary[i], ":")
	}
	_, root := s.service.last("Service", "RootDirectory")
	paths, at := s.pathsOf(s.rule.option)
	instead := slices.Clone(paths)
	var bad []int
	for i, p := range paths {
		source, rest, _ := strings.Cut(p, ":")
		target, options, _ := strings.Cut(rest, ":")
		if target == "" {
			target = source
		}
		source, target = path.Clean(source), path.Clean(target)
		if !slices.Contains(s.programs(), target) {
			continue
		}
		hidden := slices.ContainsFunc(temporary, func(dir string) bool { return under(target, dir) })
		if source == target && !hidden && !root {
			continue // the mount goes with the file that is replaced
		}
		bad = append(bad, i)
		instead[i] = path.Dir(source)
		if path.Dir(source) != path.Dir(target) || options != "" {
			instead[i] += ":" + path.Dir(target)
		}
		if options != "" {
			instead[i] += ":" + options
		}
	}
	for _, i := range bad {
		s.report(Error, at[i], s.forOther("the mount is of the file that was there at the start: after a package has replaced it, the old version is executed again, and nobody notices; mount its directory"),
			s.list(s.rule.option, instead))
	}
}

func rootImage(s *subject) {
	if at, set := s.service.last("Service", "RootImage"); set {
		s.report(Error, at, "the image is mounted at the start: an upgrade finds the file that is in it, and never that of another image; use systemctl restart, or keep the program outside, in a directory that is mounted with BindReadOnlyPaths=")
	}
}

func extensions(s *subject) {
	if s.systemd >= 260 {
		return // RefreshOnReload= has them mounted anew
	}
	if at, set := s.service.last("Service", s.rule.option); set {
		s.report(Warning, at, "what comes from an extension is as it was at the start: if the program does, an upgrade finds the old one; systemd 260 and later mounts them anew at a reload")
	}
}

func runtimeDirectory(s *subject) {
	at, set := s.service.last("Service", "RuntimeDirectory")
	switch {
	case !set && s.is(hot):
		s.report(Error, at, "the control socket, which a reload asks, and the PID file are in it: without it there is none of them", "RuntimeDirectory="+s.stem())
	case !set:
		s.report(Warning, at, "the control socket is in it: without it holdfast status has nobody to ask", "RuntimeDirectory="+s.stem())
	}
}

func runtimeDirectoryMode(s *subject) {
	at, _ := s.service.last("Service", "RuntimeDirectoryMode")
	if m, err := unitfile.ParseMode(at.value); err == nil && m&0o022 != 0 {
		s.report(Error, at, "others could replace the control socket and the PID file: the service refuses to start", "RuntimeDirectoryMode=0755")
	}
}

// runtimeDirectoryPreserve: with the directory goes a socket that a socket unit has in it.
func runtimeDirectoryPreserve(s *subject) {
	if v := s.service.value("Service", "RuntimeDirectoryPreserve", "no"); !isFalse(v) {
		return
	}
	preserve, _ := s.service.last("Service", "RuntimeDirectoryPreserve")
	for _, w := range s.service.words("Service", "RuntimeDirectory") {
		name, _, _ := strings.Cut(w, ":")
		dir := path.Join("/run", name)
		for _, u := range s.sockets {
			for _, l := range u.listens() {
				address := path.Clean(strings.Replace(u.expand(l.value), "/var/run/", "/run/", 1))
				if !strings.HasPrefix(address, dir+"/") {
					continue
				}
				s.report(Warning, preserve, fmt.Sprintf("%s has its socket at %s, in the runtime directory of the service: systemd removes that when the service ends, with the path, and nobody can connect any more until the socket unit is restarted", u.name, address),
					"RuntimeDirectoryPreserve=yes")
				return
			}
		}
	}
}

func isFalse(text string) bool {
	v, err := unitfile.ParseBool(text)
	return err == nil && !v
}

// stateDirectory: holdfast launch writes its record as the user of the service.
func stateDirectory(s *subject) {
	if s.launch == nil {
		return
	}
	at, _ := s.service.last("Service", "StateDirectory")
	dir := s.launchState()
	if dir == "" {
		s.report(Warning, at, "holdfast launch has no directory for its record: it cannot start the last good version instead of one that failed", "StateDirectory="+s.stem()+".holdfast")
		return
	}
	for _, w := range s.service.words("Service", "StateDirectory") {
		name, _, _ := strings.Cut(w, ":")
		if under(dir, path.Join("/var/lib", name)) {
			return
		}
	}
	confined := s.service.yes("Service", "DynamicUser", false) || s.service.value("Service", "User", "root") != "root" ||
		s.service.value("Service", "ProtectSystem", "") == "strict"
	if confined && !slices.ContainsFunc(s.service.words("Service", "ReadWritePaths"), func(p string) bool { return under(dir, strings.TrimLeft(p, "-+")) }) {
		write := "StateDirectory=" + s.stem() + ".holdfast"
		if rest, ok := strings.CutPrefix(dir, "/var/lib/"); ok {
			write = "StateDirectory=" + s.inUnit(rest)
		}
		s.report(Warning, at, "holdfast launch keeps its record in "+dir+", which no StateDirectory= makes for the service: if it cannot write there, it starts a version that failed again and again", write)
	}
}

func environmentFile(s *subject) {
	if at, set := s.service.last("Service", "EnvironmentFile"); set {
		s.report(Note, at, "it is read when systemd starts the service: a version that follows by an upgrade has the environment of the first one; systemctl restart reads it again")
	}
}

func credential(s *subject) {
	at, set := s.service.last("Service", s.rule.option)
	if !set {
		return
	}
	if s.systemd < 260 {
		s.report(Note, at, "credentials are those of the start: a version that follows by an upgrade finds the same; systemctl restart loads them again")
		return
	}
	refresh := s.service.value("Service", "RefreshOnReload", "extensions")
	if v, err := unitfile.ParseBool(refresh); (err != nil || !v) && !strings.Contains(refresh, "credentials") {
		s.report(Note, at, "credentials are those of the start: a version that follows by an upgrade finds the same", "RefreshOnReload=yes")
	}
}

func privatePIDs(s *subject) {
	if !s.service.yes("Service", "PrivatePIDs", false) {
		return
	}
	at, _ := s.service.last("Service", "PrivatePIDs")
	const dies = "the old version is PID 1 of the service: the new one, which it starts, dies with it, and systemd cannot be told its PID"
	switch {
	case s.is(holdfast) && len(s.sockets) > 0:
		// Seen on 257 and 262.
		why := "the service is PID 1 in there, and $LISTEN_PID, which is the number outside, names another process: it does not take the sockets of its socket units"
		if s.is(overlap) {
			why += "; and " + dies
		}
		s.report(Error, at, why, "PrivatePIDs=no")
	case s.is(overlap):
		s.report(Error, at, dies+"; the mode in place works", "PrivatePIDs=no")
	case s.is(other) && (s.service.value("Service", "Type", "") == "forking" || len(s.service.commands("ExecReload")) > 0):
		s.report(Note, at, "no upgrade in which one process follows another can work: all end with the first one")
	}
}

func noNewPrivileges(s *subject) {
	if !s.service.yes("Service", "NoNewPrivileges", false) {
		return
	}
	program := s.program()
	info, err := s.stat(program)
	if program == "" || err != nil || info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) == 0 {
		return
	}
	at, _ := s.service.last("Service", "NoNewPrivileges")
	s.report(Warning, at, fmt.Sprintf("%s has a setuid or setgid bit (%v), which is without effect with it: give the service a User= and AmbientCapabilities= instead", program, info.Mode()))
}

// addressFamilies: sd_notify, the fd store and the control socket are Unix sockets.
func addressFamilies(s *subject) {
	all := s.service.all("Service", "RestrictAddressFamilies")
	if len(all) == 0 {
		return
	}
	var (
		allow   bool
		decided bool
		listed  = make(map[string]bool)
		last    setting
	)
	for _, a := range all {
		value, inverted := strings.CutPrefix(a.value, "~")
		if value == "none" {
			allow, decided, last = true, true, a
			clear(listed)
			continue
		}
		if !decided {
			allow, decided = !inverted, true
		}
		for w := range strings.FieldsSeq(value) {
			if allow == !inverted {
				listed[w] = true
			} else {
				delete(listed, w)
			}
			if w == "AF_UNIX" || w == "AF_LOCAL" {
				last = a
			}
		}
		if last.value == "" || allow {
			last = a
		}
	}
	if listed["AF_UNIX"] == allow || listed["AF_LOCAL"] && allow {
		return
	}
	// A line of its own adds to what is allowed, and takes from what is not.
	write := "RestrictAddressFamilies=AF_UNIX"
	if s.is(other) {
		if t := s.service.value("Service", "Type", ""); t == "notify" || t == "notify-reload" {
			s.report(Warning, last, "the service may open no Unix socket, and cannot tell systemd that it is ready: its start ends in a timeout", write)
		}
		return
	}
	s.report(Error, last, "the service may open no Unix socket: it cannot tell systemd that it is ready or who is main, and has no control socket", write)
}

// callSets are the sets of systemd in which the system calls are that an upgrade needs
// (systemd-analyze syscall-filter); what is in @default is always allowed.
var callSets = []struct {
	call string
	of   scope
	sets []string
}{
	{"clone", hot, []string{"@process", "@system-service", "@known"}}, // threads, and the next version
	{"pidfd_open", overlap, []string{"@process", "@system-service", "@known"}},
	{"memfd_create", hot, []string{"@ipc", "@system-service", "@known"}},
	{"sendmsg", hot, []string{"@network-io", "@system-service", "@known"}},
	{"recvmsg", hot, []string{"@network-io", "@system-service", "@known"}},
}

func systemCalls(s *subject) {
	all := s.service.all("Service", "SystemCallFilter")
	if len(all) == 0 {
		return
	}
	_, first := strings.CutPrefix(all[0].value, "~")
	allow := !first
	allowed := make(map[string]bool)
	at := make(map[string]setting)
	for _, c := range callSets {
		allowed[c.call] = !allow
		at[c.call] = all[0]
	}
	for _, a := range all {
		value, inverted := strings.CutPrefix(a.value, "~")
		for w := range strings.FieldsSeq(value) {
			name, _, _ := strings.Cut(w, ":")
			for _, c := range callSets {
				if name == c.call || slices.Contains(c.sets, name) {
					allowed[c.call] = !inverted
					at[c.call] = a
				}
			}
		}
	}
	var missing, lines []string
	var where setting
	for _, c := range callSets {
		if !allowed[c.call] && s.is(c.of) {
			missing = append(missing, c.call)
			if where.value == "" {
				where = at[c.call]
			}
		}
	}
	if len(missing) == 0 {
		return
	}
	lines = append(lines, "SystemCallFilter="+strings.Join(missing, " "))
	if allow && !slices.Contains(missing, "clone") {
		lines[0] = "SystemCallFilter=@system-service"
	}
	what := "fails with an error"
	if _, set := s.service.last("Service", "SystemCallErrorNumber"); !set {
		what = "kills the process"
	}
	s.report(Error, where, fmt.Sprintf("an upgrade needs %s, and the filter does not allow it: the call %s", strings.Join(missing, ", "), what), lines...)
}

// soft is the first of the two numbers of a limit.
func soft(text string) (uint64, bool) {
	text, _, _ = strings.Cut(text, ":")
	if text == "infinity" {
		return 0, false
	}
	n, err := unitfile.ParseUnsigned(text, 64)
	return n, err == nil
}

func limitNOFILE(s *subject) {
	at, set := s.service.last("Service", "LimitNOFILE")
	n, ok := soft(at.value)
	if r := s.running; r != nil && r.limitNOFILE > 0 && r.open > 0 {
		if uint64(r.open)*2 > r.limitNOFILE {
			s.report(Warning, at, fmt.Sprintf("%d descriptors are open and %d allowed: those that are on their way to the next version count twice for a user that is not root", r.open, r.limitNOFILE),
				"LimitNOFILE="+strconv.Itoa(roundUp(r.open*4)))
		}
		return
	}
	if set && ok && n < 256 {
		s.report(Warning, at, "an upgrade passes on all listeners and idle connections, and those that are on their way count twice for a user that is not root", "LimitNOFILE=524288")
	}
}

func roundUp(n int) int {
	r := 1024
	for r < n {
		r *= 2
	}
	return r
}

func limitNPROC(s *subject) {
	at, set := s.service.last("Service", "LimitNPROC")
	n, ok := soft(at.value)
	if !set || !ok {
		return
	}
	if !s.service.yes("Service", "DynamicUser", false) {
		if user := s.service.value("Service", "User", "root"); user == "root" || user == "0" {
			return // root is not limited
		}
	}
	s.tasks(at, n, "LimitNPROC")
}

func tasksMax(s *subject) {
	at, set := s.service.last("Service", "TasksMax")
	n, err := unitfile.ParseUnsigned(at.value, 64)
	if !set || err != nil {
		return // infinity, or a share of what the machine has
	}
	s.tasks(at, n, "TasksMax")
}

// fewTasks is what two versions and the reload command, each a Go program, do not
// start with; someTasks is what they may not have enough of on a large machine.
const (
	fewTasks  = 16
	someTasks = 64
)

func (s *subject) tasks(at setting, limit uint64, option string) {
	if r := s.running; r != nil && r.tasks > 0 {
		if limit < 2*r.tasks+8 {
			s.report(Error, at, fmt.Sprintf("%d tasks run, a new version beside them needs as many, and the reload command some: that is more than %d, and the new version cannot start", r.tasks, limit),
				option+"="+strconv.FormatUint(max(someTasks, 4*r.tasks), 10))
		}
		return
	}
	switch {
	case limit < fewTasks:
		s.report(Error, at, "two versions and the reload command have some ten threads each: the new one cannot start", option+"=512")
	case limit < someTasks:
		s.report(Warning, at, "two versions and the reload command have some ten threads each, and more on a machine with many processors", option+"=512")
	}
}

func memoryMax(s *subject)  { s.memory("MemoryMax", "the kernel kills the new one") }
func memoryHigh(s *subject) { s.memory("MemoryHigh", "the kernel slows down both") }

// fewMemory is less than two Go programs and their caches live with.
const fewMemory = 32 << 20

func (s *subject) memory(option, what string) {
	at, set := s.service.last("Service", option)
	n, err := unitfile.ParseSize(at.value)
	if !set || err != nil {
		return
	}
	if r := s.running; r != nil && r.memory > 0 {
		if n < 2*r.memory {
			s.report(Warning, at, fmt.Sprintf("the service has %d MiB of memory, with the file cache in it, and two versions at once may need twice that: more than %d MiB, and %s", r.memory>>20, n>>20, what),
				fmt.Sprintf("%s=%dM", option, max(64, (5*r.memory/2)>>20)))
		}
		return
	}
	if n < fewMemory {
		s.report(Warning, at, "two versions at once have to fit into it, or "+what, option+"=256M")
	}
}

func delegate(s *subject) {
	at, set := s.service.last("Service", "Delegate")
	if !set || isFalse(at.value) {
		return
	}
	s.report(Note, at, "a new version begins in the control group of the old one, also if that has made one of its own: a version that makes control groups at its start finds them there already")
}
