// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/units/unitfile"
)

// Bus is systemd, as package bus has it.
type Bus interface {
	// Version is that of systemd.
	Version(ctx context.Context) (int, error)
	// Properties are all that a unit has on an interface: "Unit", "Service", "Socket".
	Properties(ctx context.Context, unit, iface string) (map[string]any, error)
}

// running is what runs of a service.
type running struct {
	active, sub   string
	tasks, memory uint64 // 0 if not known
	stored        int
	open          int
	limitNOFILE   uint64
	stale         []string // units whose files systemd has not read again
	newer         []setting
	status        *control.Status
}

// mode is what the service says.
func (r *running) mode() units.Mode {
	if r.status == nil {
		return ""
	}
	switch r.status.Mode {
	case "overlap":
		return units.Overlap
	case "in place":
		return units.InPlace
	case "restart":
		return units.Restart
	}
	return ""
}

// property is a property of systemd that is an option.
type property struct {
	name    string
	section string
	key     string
	as      func(value any) string // as in a unit file, empty for not set
}

func asText(v any) string { s, _ := v.(string); return s }

func asBool(v any) string {
	if b, _ := v.(bool); b {
		return "yes"
	}
	return "no"
}

func asNumber(v any) string {
	switch n := v.(type) {
	case uint32:
		return strconv.FormatUint(uint64(n), 10)
	case int32:
		return strconv.FormatInt(int64(n), 10)
	case uint64:
		if n == math.MaxUint64 {
			return "infinity"
		}
		return strconv.FormatUint(n, 10)
	}
	return ""
}

func asSpan(v any) string {
	n, ok := v.(uint64)
	switch {
	case !ok:
		return ""
	case n > math.MaxInt64/1000:
		return "infinity"
	}
	return span(time.Duration(n) * time.Microsecond)
}

func asMode(v any) string {
	if n, ok := v.(uint32); ok {
		return "0" + strconv.FormatUint(uint64(n), 8)
	}
	return ""
}

func asWords(v any) string {
	words, _ := v.([]string)
	return strings.Join(words, " ")
}

// The properties of units that systemd may take from elsewhere than from the files: from
// system.conf(5), or from systemctl set-property.
var (
	unitProperties = []property{
		{"StartLimitIntervalUSec", "Unit", "StartLimitIntervalSec", asSpan},
		{"StartLimitBurst", "Unit", "StartLimitBurst", asNumber},
	}
	serviceProperties = []property{
		{"Type", "Service", "Type", asText},
		{"NotifyAccess", "Service", "NotifyAccess", asText},
		{"PIDFile", "Service", "PIDFile", asText},
		{"ExitType", "Service", "ExitType", asText},
		{"RemainAfterExit", "Service", "RemainAfterExit", asBool},
		{"Restart", "Service", "Restart", asText},
		{"RestartUSec", "Service", "RestartSec", asSpan},
		{"TimeoutStartUSec", "Service", "TimeoutStartSec", asSpan},
		{"TimeoutStopUSec", "Service", "TimeoutStopSec", asSpan},
		{"WatchdogUSec", "Service", "WatchdogSec", asSpan},
		{"OOMPolicy", "Service", "OOMPolicy", asText},
		{"FileDescriptorStoreMax", "Service", "FileDescriptorStoreMax", asNumber},
		{"FileDescriptorStorePreserve", "Service", "FileDescriptorStorePreserve", asText},
		{"KillMode", "Service", "KillMode", asText},
		{"SendSIGKILL", "Service", "SendSIGKILL", asBool},
		{"RuntimeDirectory", "Service", "RuntimeDirectory", asWords},
		{"RuntimeDirectoryMode", "Service", "RuntimeDirectoryMode", asMode},
		{"RuntimeDirectoryPreserve", "Service", "RuntimeDirectoryPreserve", asText},
		{"DynamicUser", "Service", "DynamicUser", asBool},
		{"User", "Service", "User", asText},
		{"NoNewPrivileges", "Service", "NoNewPrivileges", asBool},
		{"PrivatePIDs", "Service", "PrivatePIDs", asText},
		{"LimitNPROCSoft", "Service", "LimitNPROC", asNumber},
		{"TasksMax", "Service", "TasksMax", asNumber},
		{"MemoryMax", "Service", "MemoryMax", asNumber},
		{"MemoryHigh", "Service", "MemoryHigh", asNumber},
		{"Delegate", "Service", "Delegate", asBool},
	}
	socketProperties = []property{
		{"Accept", "Socket", "Accept", asBool},
		{"ReusePort", "Socket", "ReusePort", asBool},
		{"FlushPending", "Socket", "FlushPending", asBool},
		{"RemoveOnStop", "Socket", "RemoveOnStop", asBool},
		{"TriggerLimitIntervalUSec", "Socket", "TriggerLimitIntervalSec", asSpan},
		{"TriggerLimitBurst", "Socket", "TriggerLimitBurst", asNumber},
	}
)

// take sets the options of a unit to what systemd has. An option that a file sets to the
// same keeps its text and its place.
func (u *unit) take(properties []property, values map[string]any) {
	for _, p := range properties {
		v, ok := values[p.name]
		if !ok {
			continue
		}
		text := p.as(v)
		key := optionKey{p.section, p.key}
		at, set := u.last(p.section, p.key)
		switch {
		case text == "":
			delete(u.settings, key)
			continue
		case set && canonical(u.expand(at.value)) == canonical(text):
			continue
		case p.key == "RuntimeDirectory" && set:
			continue // several lines, and links
		}
		if !set {
			at = setting{file: u.file()}
		}
		at.value = text
		u.settings[key] = []setting{at}
	}
}

// canonical makes two ways to write a value the same.
func canonical(text string) string {
	if n, err := unitfile.ParseUnsigned(text, 64); err == nil {
		return strconv.FormatUint(n, 10) + "s"
	}
	if b, err := unitfile.ParseBool(text); err == nil {
		return strconv.FormatBool(b)
	}
	if n, err := unitfile.ParseSize(text); err == nil {
		return strconv.FormatUint(n, 10) + "s"
	}
	if d, err := unitfile.ParseTimespan(text, time.Second); err == nil {
		return span(d)
	}
	return text
}

// statusTimeout bounds the question to the service itself.
const statusTimeout = 3 * time.Second

// Running judges a service as systemd has it: its files, its settings whatever they come from,
// and what runs of it. The service is asked, too, if this process may. files has the root of the
// machine, os.DirFS("/").
func Running(ctx context.Context, b Bus, files fs.FS, name string, o Options) (*Report, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	name, err := ServiceName(name)
	if err != nil {
		return nil, err
	}
	if o.Systemd == 0 {
		if o.Systemd, err = b.Version(ctx); err != nil {
			return nil, err
		}
	}
	l := o.loader(files)
	r := &running{}
	service, props, err := l.loaded(ctx, b, name, r)
	if err != nil {
		return nil, err
	}
	values, err := b.Properties(ctx, name, "Service")
	if err != nil {
		return nil, err
	}
	service.take(serviceProperties, values)
	r.look(l, props, values)

	s := &subject{ctx: ctx, systemd: o.Systemd, service: service, files: l, running: r}
	r.ask(ctx, o.User, s.runtimeDirectory())
	triggers, _ := props["TriggeredBy"].([]string)
	slices.Sort(triggers)
	for _, trigger := range triggers {
		if !strings.HasSuffix(trigger, ".socket") {
			continue
		}
		socket, _, err := l.loaded(ctx, b, trigger, r)
		if err != nil {
			return nil, err
		}
		values, err := b.Properties(ctx, trigger, "Socket")
		if err != nil {
			return nil, err
		}
		socket.take(socketProperties, values)
		s.sockets = append(s.sockets, socket)
	}
	r.compare(l, append([]*unit{service}, s.sockets...), moment(props["InactiveExitTimestamp"]))
	return s.reportFor(o), nil
}

// loaded reads the files of a unit that systemd has loaded.
func (l *loader) loaded(ctx context.Context, b Bus, name string, r *running) (*unit, map[string]any, error) {
	props, err := b.Properties(ctx, name, "Unit")
	if err != nil {
		return nil, nil, err
	}
	fragment := asText(props["FragmentPath"])
	switch asText(props["LoadState"]) {
	case "not-found":
		return nil, nil, &NotFoundError{Unit: name}
	case "masked":
		return nil, nil, &NotFoundError{Unit: name, Masked: fragment}
	}
	n, err := unitfile.ParseName(asText(props["Id"]))
	if err != nil {
		return nil, nil, fmt.Errorf("unit %s: systemd calls it %w", name, err)
	}
	u := newUnit(n)
	dropIns, _ := props["DropInPaths"].([]string)
	for _, file := range append([]string{fragment}, dropIns...) {
		if file == "" {
			continue // of a unit that was made by a call
		}
		text, _, err := l.open(file)
		if err != nil {
			return nil, nil, err
		}
		u.read(file, text)
	}
	u.take(unitProperties, props)
	if stale, _ := props["NeedDaemonReload"].(bool); stale {
		r.stale = append(r.stale, n.String())
	}
	return u, props, nil
}

// look takes what there is of numbers.
func (r *running) look(l *loader, unit, service map[string]any) {
	r.active, r.sub = asText(unit["ActiveState"]), asText(unit["SubState"])
	number := func(name string) uint64 {
		n, _ := service[name].(uint64)
		if n == math.MaxUint64 {
			return 0 // no accounting
		}
		return n
	}
	r.tasks, r.memory = number("TasksCurrent"), number("MemoryCurrent")
	stored, _ := service["NFileDescriptorStore"].(uint32)
	r.stored = int(stored)
	pid, _ := service["MainPID"].(uint32)
	if pid == 0 {
		return
	}
	dir := path.Join("proc", strconv.FormatUint(uint64(pid), 10))
	if entries, err := fs.ReadDir(l.files, path.Join(dir, "fd")); err == nil {
		r.open = len(entries)
	}
	limits, err := fs.ReadFile(l.files, path.Join(dir, "limits"))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if fields := strings.Fields(rest); len(fields) > 0 {
				r.limitNOFILE, _ = strconv.ParseUint(fields[0], 10, 64) // 0 for unlimited
			}
		}
	}
}

// ask asks the service, if it has a control socket.
func (r *running) ask(ctx context.Context, user bool, directory string) {
	if directory == "" || r.active != "active" && r.active != "reloading" {
		return
	}
	root := "/run"
	if user {
		root = os.Getenv("XDG_RUNTIME_DIR")
	}
	socket := path.Join(root, directory, control.SocketName)
	if _, err := os.Stat(socket); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	// Another user may not ask; then the unit says what it can.
	if status, err := control.NewClient(socket).Status(ctx); err == nil {
		r.status = &status
	}
}

// compare finds files that were written after the service was started.
func (r *running) compare(l *loader, all []*unit, started time.Time) {
	if started.IsZero() || r.active != "active" && r.active != "reloading" {
		return
	}
	for _, u := range all {
		if u.name.Kind != "service" {
			continue
		}
		for _, file := range u.files {
			// systemctl set-property applies at once.
			if strings.Contains(file, "/system.control/") || strings.Contains(file, "/transient/") {
				continue
			}
			resolved, err := l.resolve(file)
			if err != nil {
				continue
			}
			info, err := fs.Stat(l.files, strings.TrimPrefix(resolved, "/"))
			if err != nil {
				continue
			}
			changed := info.ModTime()
			// A package brings the time of its build along.
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				changed = time.Unix(st.Ctim.Unix())
			}
			if changed.After(started) {
				r.newer = append(r.newer, setting{file: file})
			}
		}
	}
}

func moment(v any) time.Time {
	n, _ := v.(uint64)
	if n == 0 || n > math.MaxInt64 {
		return time.Time{}
	}
	return time.UnixMicro(int64(n))
}

func needDaemonReload(s *subject) {
	if s.running == nil {
		return
	}
	for _, name := range s.running.stale {
		s.report(Warning, setting{}, name+": its files have changed, and systemd works with what was in them before: run systemctl daemon-reload")
	}
}

func restartPending(s *subject) {
	if s.running == nil || len(s.running.stale) > 0 {
		return
	}
	for _, at := range s.running.newer {
		s.report(Note, at, "it was written after the service was started: what it changes of the environment, the sandbox and the limits comes into force by systemctl restart, and not by an upgrade, which keeps what the first version was started with")
	}
}

func activeState(s *subject) {
	if s.running == nil || s.running.active == "active" || s.running.active == "reloading" {
		return
	}
	s.report(Note, setting{value: s.running.active + " (" + s.running.sub + ")"}, "the service does not run: only its settings were judged")
}
