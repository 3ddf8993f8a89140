// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// Unit is what systemd says about a unit: the properties of
// org.freedesktop.systemd1(5) by their names. One that this systemd does not have
// is the zero value.
type Unit struct {
	// Name is the unit's own (Id), also if it was asked for by an alias.
	Name             string    `json:"name"`
	Description      string    `json:"description,omitempty"`
	LoadState        string    `json:"load_state"`
	ActiveState      string    `json:"active_state"`
	SubState         string    `json:"sub_state"`
	UnitFileState    string    `json:"unit_file_state,omitempty"`
	FragmentPath     string    `json:"fragment_path,omitempty"`
	DropInPaths      []string  `json:"drop_in_paths,omitempty"`
	NeedDaemonReload bool      `json:"need_daemon_reload,omitempty"`
	CanReload        bool      `json:"can_reload"`
	InvocationID     string    `json:"invocation_id,omitempty"`
	StateChange      time.Time `json:"state_change,omitzero"`
	TriggeredBy      []string  `json:"triggered_by,omitempty"`
	// Job is the number of the job that the unit has, or 0.
	Job uint32 `json:"job,omitempty"`

	Service
	path dbus.ObjectPath
}

// Service is what only services have. Type is empty for others.
type Service struct {
	Type                   string    `json:"type,omitempty"`
	NotifyAccess           string    `json:"notify_access,omitempty"`
	MainPID                int       `json:"main_pid,omitempty"`
	ControlPID             int       `json:"control_pid,omitempty"`
	ExecMainStart          time.Time `json:"exec_main_start,omitzero"`
	StatusText             string    `json:"status_text,omitempty"`
	StatusErrno            int       `json:"status_errno,omitempty"`
	Result                 string    `json:"result,omitempty"`
	ReloadResult           string    `json:"reload_result,omitempty"`
	NRestarts              int       `json:"n_restarts"`
	FileDescriptorStoreMax int       `json:"fd_store_max"`
	NFileDescriptorStore   int       `json:"n_fd_store"`
	// UID is the user as which it runs, also a dynamic one: 0 without User=.
	UID uint32 `json:"uid"`
	// RuntimeDirectory and StateDirectory are below /run and /var/lib.
	RuntimeDirectory []string `json:"runtime_directory,omitempty"`
	StateDirectory   []string `json:"state_directory,omitempty"`
	ControlGroup     string   `json:"control_group,omitempty"`
	// TimeoutStart is negative if there is none (infinity).
	TimeoutStart time.Duration `json:"timeout_start,omitempty"`
}

// Listed is a unit in a list.
type Listed struct {
	Name, Description, LoadState, ActiveState, SubState string
	Job                                                 uint32
}

// Unit asks for a unit by its name or an alias. One without a unit file is a
// [*NoUnitError]; one whose file is masked or wrong is returned, with its LoadState.
func (c *Conn) Unit(ctx context.Context, name string) (Unit, error) {
	path, err := c.load(ctx, name)
	if err != nil {
		return Unit{}, err
	}
	p, err := c.all(ctx, path, destination+".Unit")
	if err != nil {
		return Unit{}, fault(ctx, "ask for", name, err)
	}
	u := Unit{
		path: path,
		Name: get[string](p, "Id"), Description: get[string](p, "Description"),
		LoadState: get[string](p, "LoadState"), ActiveState: get[string](p, "ActiveState"), SubState: get[string](p, "SubState"),
		UnitFileState: get[string](p, "UnitFileState"), FragmentPath: get[string](p, "FragmentPath"), DropInPaths: get[[]string](p, "DropInPaths"),
		NeedDaemonReload: get[bool](p, "NeedDaemonReload"), CanReload: get[bool](p, "CanReload"),
		InvocationID: hex.EncodeToString(get[[]byte](p, "InvocationID")), StateChange: moment(p, "StateChangeTimestamp"),
		TriggeredBy: get[[]string](p, "TriggeredBy"),
	}
	// It is a structure of its number and its path.
	if job := get[[]any](p, "Job"); len(job) > 0 {
		u.Job, _ = job[0].(uint32)
	}
	if u.LoadState == "not-found" {
		return Unit{}, &NoUnitError{name}
	}
	if !strings.HasSuffix(u.Name, ".service") {
		return u, nil
	}
	if p, err = c.all(ctx, path, destination+".Service"); err != nil {
		return Unit{}, fault(ctx, "ask for", name, err)
	}
	u.Service = Service{
		Type: get[string](p, "Type"), NotifyAccess: get[string](p, "NotifyAccess"),
		MainPID: int(get[uint32](p, "MainPID")), ControlPID: int(get[uint32](p, "ControlPID")), ExecMainStart: moment(p, "ExecMainStartTimestamp"),
		StatusText: get[string](p, "StatusText"), StatusErrno: int(get[int32](p, "StatusErrno")),
		Result: get[string](p, "Result"), ReloadResult: get[string](p, "ReloadResult"), NRestarts: int(get[uint32](p, "NRestarts")),
		FileDescriptorStoreMax: int(get[uint32](p, "FileDescriptorStoreMax")), NFileDescriptorStore: int(get[uint32](p, "NFileDescriptorStore")),
		RuntimeDirectory: get[[]string](p, "RuntimeDirectory"), StateDirectory: get[[]string](p, "StateDirectory"),
		ControlGroup: get[string](p, "ControlGroup"), TimeoutStart: span(get[uint64](p, "TimeoutStartUSec")),
	}
	// systemd says of root what it says of none.
	if uid := get[uint32](p, "UID"); uid != math.MaxUint32 {
		u.UID = uid
	}
	return u, nil
}

// Units lists the loaded units whose names match one of the patterns, as fnmatch(3)
// does, sorted by name.
func (c *Conn) Units(ctx context.Context, patterns ...string) ([]Listed, error) {
	call, err := c.call(ctx, false, managerPath, managerIface+".ListUnitsByPatterns", []string{}, patterns)
	if err != nil {
		return nil, fault(ctx, "list", strings.Join(patterns, " "), err)
	}
	var rows []struct {
		Name, Description, LoadState, ActiveState, SubState, Following string
		Path                                                           dbus.ObjectPath
		Job                                                            uint32
		JobType                                                        string
		JobPath                                                        dbus.ObjectPath
	}
	if err := call.Store(&rows); err != nil {
		return nil, fault(ctx, "list", strings.Join(patterns, " "), err)
	}
	list := make([]Listed, len(rows))
	for i, r := range rows {
		list[i] = Listed{r.Name, r.Description, r.LoadState, r.ActiveState, r.SubState, r.Job}
	}
	slices.SortFunc(list, func(a, b Listed) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Properties returns all that systemd says about a unit on one interface, such as
// "Service" or "Socket": values of the types of package dbus.
func (c *Conn) Properties(ctx context.Context, name, iface string) (map[string]any, error) {
	path, err := c.load(ctx, name)
	if err != nil {
		return nil, err
	}
	p, err := c.all(ctx, path, destination+"."+iface)
	if err != nil {
		return nil, fault(ctx, "ask for", name, err)
	}
	values := make(map[string]any, len(p))
	for key, v := range p {
		values[key] = v.Value()
	}
	return values, nil
}

// Version is that of systemd, 252 for "252.39-1~deb12u2".
func (c *Conn) Version(ctx context.Context) (int, error) {
	p, err := c.all(ctx, managerPath, managerIface)
	if err != nil {
		return 0, fault(ctx, "ask for", "the version of systemd", err)
	}
	text := strings.TrimPrefix(get[string](p, "Version"), "v")
	end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(text)
	}
	version, err := strconv.Atoi(text[:end])
	if err != nil {
		return 0, fmt.Errorf("systemd says that its version is %q, which begins with no number", text)
	}
	return version, nil
}

// Socket is a socket unit.
type Socket struct {
	Name        string   `json:"name"`
	ActiveState string   `json:"active_state"`
	Listen      []Listen `json:"listen,omitempty"`
	// FileDescriptorName is what the service gets the sockets by.
	FileDescriptorName string `json:"fd_name,omitempty"`
	Accept             bool   `json:"accept,omitempty"`
	ReusePort          bool   `json:"reuse_port,omitempty"`
}

// Listen is one address of a socket unit; Type is "Stream", "Datagram" and so on.
type Listen struct {
	Type    string `json:"type"`
	Address string `json:"address"`
}

// Sockets returns the socket units that trigger u.
func (c *Conn) Sockets(ctx context.Context, u Unit) ([]Socket, error) {
	var sockets []Socket
	for _, name := range u.TriggeredBy {
		if !strings.HasSuffix(name, ".socket") {
			continue
		}
		unit, err := c.Unit(ctx, name)
		if err != nil {
			return nil, err
		}
		p, err := c.all(ctx, unit.path, destination+".Socket")
		if err != nil {
			return nil, fault(ctx, "ask for", name, err)
		}
		s := Socket{
			Name: unit.Name, ActiveState: unit.ActiveState, FileDescriptorName: get[string](p, "FileDescriptorName"),
			Accept: get[bool](p, "Accept"), ReusePort: get[bool](p, "ReusePort"),
		}
		for _, row := range get[[][]any](p, "Listen") {
			if len(row) == 2 {
				s.Listen = append(s.Listen, Listen{fmt.Sprint(row[0]), fmt.Sprint(row[1])})
			}
		}
		sockets = append(sockets, s)
	}
	return sockets, nil
}

// load returns the object of a unit. systemd reads the unit's file if it must.
func (c *Conn) load(ctx context.Context, name string) (dbus.ObjectPath, error) {
	call, err := c.call(ctx, false, managerPath, managerIface+".LoadUnit", name)
	var path dbus.ObjectPath
	if err == nil {
		err = call.Store(&path)
	}
	return path, fault(ctx, "ask for", name, err)
}

func (c *Conn) all(ctx context.Context, path dbus.ObjectPath, iface string) (map[string]dbus.Variant, error) {
	call, err := c.call(ctx, false, path, properties+".GetAll", iface)
	if err != nil {
		return nil, err
	}
	var p map[string]dbus.Variant
	return p, call.Store(&p)
}

// get is the zero value for a property that is not there or of another type.
func get[T any](p map[string]dbus.Variant, name string) T {
	value, _ := p[name].Value().(T)
	return value
}

// moment is a time in microseconds since 1970, 0 being none.
func moment(p map[string]dbus.Variant, name string) time.Time {
	usec := get[uint64](p, name)
	if usec == 0 || usec > math.MaxInt64 {
		return time.Time{}
	}
	return time.UnixMicro(int64(usec))
}

// span is a time in microseconds, the greatest number being infinity.
func span(usec uint64) time.Duration {
	if usec > math.MaxInt64/1000 {
		return -1
	}
	return time.Duration(usec) * time.Microsecond
}
