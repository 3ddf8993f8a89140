// SPDX-License-Identifier: Apache-2.0

package unit

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/units/unitfile"
)

// defaultTimeout is DefaultTimeoutStartSec= and DefaultTimeoutStopSec=.
const defaultTimeout = 90 * time.Second

// serviceLoader is a service that is being read, and what must be remembered
// about how it was set.
type serviceLoader struct {
	context
	*Service
	startTimeoutSet bool
	abortTimeoutSet bool
	credentials     bool
	delegate        bool
	successAction   bool
}

// systemdRefuses is how a fault begins that makes the unit's LoadState
// bad-setting.
const systemdRefuses = "systemd refuses to load the unit (bad-setting): "

func (l *loader) loadService(src source, n unitfile.Name) *Service {
	s := &serviceLoader{context: l.context(n), Service: &Service{
		Name: n.String(), Instance: n.Instance, Description: n.String(),
		NotifyAccess: "none", ExitType: "main",
		TimeoutStart: defaultTimeout, TimeoutStop: defaultTimeout, RuntimeMax: Infinity,
		TimeoutStartFailureMode: "terminate", TimeoutStopFailureMode: "terminate",
		Restart: "no", RestartMode: "normal", RestartSec: 100 * time.Millisecond, RestartMaxDelay: Infinity,
		GuessMainPID: true, DefaultDependencies: true,
		FileDescriptorStorePreserve: "restart",
		KillMode:                    "control-group",
		KillSignal:                  syscall.SIGTERM, FinalKillSignal: syscall.SIGKILL,
		WatchdogSignal: syscall.SIGABRT, ReloadSignal: syscall.SIGHUP,
		SendSIGKILL:          true,
		RuntimeDirectoryMode: 0o755, StateDirectoryMode: 0o755, CacheDirectoryMode: 0o755,
		LogsDirectoryMode: 0o755, ConfigurationDirectoryMode: 0o755,
		RuntimeDirectoryPreserve: "no", TimeoutClean: Infinity,
		UMask: 0o022, IgnoreSIGPIPE: true,
		StandardInput: "null", StandardOutput: "inherit", StandardError: "inherit",
		SyslogLevel: 6, SyslogLevelPrefix: true,
	}}
	faults := len(l.faults)
	s.read(src, "Service", s.setters())
	if len(l.faults) == faults {
		s.complete()
		if err := s.verify(src.Name); err != nil {
			l.faults = append(l.faults, &Error{File: src.Name, Section: "Service", Reason: systemdRefuses + err.Error()})
		}
	}
	return s.Service
}

// setters are those of all options that are read.
func (s *serviceLoader) setters() map[string]setter {
	set := map[string]setter{
		"Unit.Description":         s.text(&s.Description),
		"Unit.RefuseManualStart":   s.boolean(&s.RefuseManualStart),
		"Unit.RefuseManualStop":    s.boolean(&s.RefuseManualStop),
		"Unit.DefaultDependencies": s.boolean(&s.DefaultDependencies),
		"Unit.Requires":            s.units(&s.Requires, ""),
		"Unit.BindsTo":             s.units(&s.BindsTo, ""),
		"Unit.BindTo":              s.units(&s.BindsTo, ""),
		"Unit.PartOf":              s.units(&s.PartOf, ""),
		"Unit.Wants":               s.units(&s.Wants, ""),
		"Unit.SuccessAction": func(a unitfile.Assignment) error {
			s.successAction = a.Value != "none" && a.Value != ""
			return nil
		},
	}
	s.startLimit(set, &s.StartLimitInterval, &s.StartLimitBurst)
	set["Service.StartLimitInterval"] = set["Unit.StartLimitIntervalSec"]
	set["Service.StartLimitBurst"] = set["Unit.StartLimitBurst"]
	for option, f := range map[string]setter{
		"Type":            s.serviceType,
		"ExitType":        s.choice(&s.ExitType, "main", "cgroup"),
		"NotifyAccess":    s.choice(&s.NotifyAccess, "none", "main", "exec", "all"),
		"PIDFile":         s.pidFile,
		"RemainAfterExit": s.boolean(&s.RemainAfterExit),
		"GuessMainPID":    s.boolean(&s.GuessMainPID),

		"ExecCondition":  s.commands(&s.ExecCondition),
		"ExecStartPre":   s.commands(&s.ExecStartPre),
		"ExecStart":      s.commands(&s.ExecStart),
		"ExecStartPost":  s.commands(&s.ExecStartPost),
		"ExecReload":     s.commands(&s.ExecReload),
		"ExecReloadPost": s.commands(&s.ExecReloadPost),
		"ExecStop":       s.commands(&s.ExecStop),
		"ExecStopPost":   s.commands(&s.ExecStopPost),

		"TimeoutSec":                s.startTimeout,
		"TimeoutStartSec":           s.startTimeout,
		"TimeoutStopSec":            s.timespan(&s.TimeoutStop, true),
		"TimeoutAbortSec":           s.abortTimeout,
		"TimeoutStartFailureMode":   s.choice(&s.TimeoutStartFailureMode, "terminate", "abort", "kill"),
		"TimeoutStopFailureMode":    s.choice(&s.TimeoutStopFailureMode, "terminate", "abort", "kill"),
		"RuntimeMaxSec":             s.timespan(&s.RuntimeMax, false),
		"RuntimeRandomizedExtraSec": s.timespan(&s.RuntimeRandomizedExtra, false),
		"WatchdogSec":               s.timespan(&s.Watchdog, false),
		"TimeoutCleanSec":           s.timespan(&s.TimeoutClean, false),

		"Restart": s.choice(&s.Restart,
			"no", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort", "always"),
		"RestartMode":               s.choice(&s.RestartMode, "normal", "direct", "debug:257"),
		"RestartSec":                s.timespan(&s.RestartSec, false),
		"RestartSteps":              s.unsigned(&s.RestartSteps),
		"RestartMaxDelaySec":        s.timespan(&s.RestartMaxDelay, false),
		"RestartRandomizedDelaySec": s.timespan(&s.RestartRandomizedDelay, false),
		"RestartPreventExitStatus":  s.exitSet(&s.RestartPrevent),
		"RestartForceExitStatus":    s.exitSet(&s.RestartForce),
		"SuccessExitStatus":         s.exitSet(&s.SuccessExit),

		"Sockets":                     s.units(&s.Sockets, "socket"),
		"NonBlocking":                 s.boolean(&s.NonBlocking),
		"OpenFile":                    s.openFile,
		"FileDescriptorStoreMax":      s.unsigned(&s.FileDescriptorStoreMax),
		"FileDescriptorStorePreserve": s.preserve(&s.FileDescriptorStorePreserve, "on-success:261"),

		"KillMode":          s.choice(&s.KillMode, "control-group", "mixed", "process", "none"),
		"KillSignal":        s.signal(&s.KillSignal),
		"RestartKillSignal": s.signal(&s.RestartKillSignal),
		"FinalKillSignal":   s.signal(&s.FinalKillSignal),
		"WatchdogSignal":    s.signal(&s.WatchdogSignal),
		"ReloadSignal":      s.signal(&s.ReloadSignal),
		"SendSIGKILL":       s.boolean(&s.SendSIGKILL),
		"SendSIGHUP":        s.boolean(&s.SendSIGHUP),
		"OOMPolicy":         s.choice(&s.OOMPolicy, "stop", "continue", "kill"),
		"Delegate":          s.setDelegate,

		"WorkingDirectory":  s.workingDirectory,
		"UMask":             s.mode(&s.UMask),
		"Environment":       s.environment,
		"EnvironmentFile":   s.environmentFile,
		"PassEnvironment":   s.list(&s.PassEnvironment, checkName),
		"UnsetEnvironment":  s.list(&s.UnsetEnvironment, checkNameOrAssignment),
		"ExecSearchPath":    s.execSearchPath,
		"StandardInput":     s.standardInput,
		"StandardOutput":    s.standardOutput(&s.StandardOutput),
		"StandardError":     s.standardOutput(&s.StandardError),
		"StandardInputText": s.inputText,
		"StandardInputData": s.inputData,
		"SyslogIdentifier":  s.text(&s.SyslogIdentifier),
		"SyslogLevel":       s.syslogLevel,
		"SyslogLevelPrefix": s.boolean(&s.SyslogLevelPrefix),
		"IgnoreSIGPIPE":     s.boolean(&s.IgnoreSIGPIPE),

		"RuntimeDirectory":           s.directories(&s.RuntimeDirectory),
		"RuntimeDirectoryMode":       s.mode(&s.RuntimeDirectoryMode),
		"RuntimeDirectoryPreserve":   s.preserve(&s.RuntimeDirectoryPreserve),
		"StateDirectory":             s.directories(&s.StateDirectory),
		"StateDirectoryMode":         s.mode(&s.StateDirectoryMode),
		"CacheDirectory":             s.directories(&s.CacheDirectory),
		"CacheDirectoryMode":         s.mode(&s.CacheDirectoryMode),
		"LogsDirectory":              s.directories(&s.LogsDirectory),
		"LogsDirectoryMode":          s.mode(&s.LogsDirectoryMode),
		"ConfigurationDirectory":     s.directories(&s.ConfigurationDirectory),
		"ConfigurationDirectoryMode": s.mode(&s.ConfigurationDirectoryMode),
	} {
		set["Service."+option] = f
	}
	for _, option := range []string{"SetCredential", "SetCredentialEncrypted", "LoadCredential", "LoadCredentialEncrypted", "ImportCredential"} {
		set["Service."+option] = func(a unitfile.Assignment) error {
			s.credentials = a.Value != ""
			return nil
		}
	}
	for option := range limits {
		set["Service."+option] = s.limit
	}
	return set
}

// complete fills in what follows from other options.
func (s *serviceLoader) complete() {
	if s.Type == "" {
		switch {
		case s.credentials && s.systemd >= 257:
			s.Type = "exec"
		case len(s.ExecStart) > 0:
			s.Type = "simple"
		default:
			s.Type = "oneshot"
		}
	}
	if s.Type == "oneshot" && !s.startTimeoutSet {
		s.TimeoutStart = Infinity
	}
	if !s.abortTimeoutSet {
		s.TimeoutAbort = s.TimeoutStop
	}
	if s.Watchdog == Infinity {
		s.Watchdog = 0
	}
	if s.NotifyAccess == "none" &&
		(s.Type == "notify" || s.Type == "notify-reload" || s.Watchdog > 0 || s.FileDescriptorStoreMax > 0) {
		s.NotifyAccess = "main"
	}
	if s.OOMPolicy == "" {
		s.OOMPolicy = "stop"
		if s.delegate || s.systemd < 243 {
			s.OOMPolicy = "continue"
		}
	}
	if s.RestartKillSignal == 0 {
		s.RestartKillSignal = s.KillSignal
	}
	if s.RestartMaxDelay < s.RestartSec {
		s.RestartSec = s.RestartMaxDelay
	}
	if s.StartLimitInterval == 0 || s.StartLimitBurst == 0 {
		s.StartLimitInterval, s.StartLimitBurst = 0, 0
	}
	if s.StandardInput == "null" && len(s.StandardInputData) > 0 {
		s.StandardInput = "data"
	}
	// An input that can be written to is where the output goes too. Before 245
	// any input but null was taken for one.
	both := s.StandardInput == "socket" || strings.HasPrefix(s.StandardInput, "fd") || s.systemd < 245 && s.StandardInput != "null"
	if s.StandardOutput == "inherit" && !both {
		s.StandardOutput = "journal"
	}
	s.Environment = unitfile.SetEnvironment(nil, s.Environment...)
	for _, list := range []*[]string{
		&s.Requires, &s.BindsTo, &s.PartOf, &s.Wants, &s.Sockets,
		&s.PassEnvironment, &s.UnsetEnvironment,
		&s.RuntimeDirectory, &s.StateDirectory, &s.CacheDirectory, &s.LogsDirectory, &s.ConfigurationDirectory,
	} {
		*list = unique(*list)
	}
}

// verify makes the checks that systemd makes when the unit is read.
func (s *serviceLoader) verify(file string) error {
	oneshot := s.Type == "oneshot"
	warn := func(format string, args ...any) {
		s.set.Warnings = append(s.set.Warnings, &Error{File: file, Section: "Service", Reason: fmt.Sprintf(format, args...)})
	}
	switch {
	case len(s.ExecStart) == 0 && len(s.ExecStop) == 0 && (!s.successAction || s.systemd < 240):
		return errors.New("there is neither ExecStart= nor ExecStop=")
	case !oneshot && len(s.ExecStart) == 0:
		return errors.New("there is no ExecStart=, which only Type=oneshot may be without")
	case !s.RemainAfterExit && len(s.ExecStart) == 0 && (!s.successAction || s.systemd < 240):
		return errors.New("there is no ExecStart=, and no RemainAfterExit=yes")
	case !oneshot && len(s.ExecStart) > 1:
		return fmt.Errorf("there are %d commands in ExecStart=, and only Type=oneshot may have more than one", len(s.ExecStart))
	case oneshot && s.systemd < 244 && s.Restart != "no":
		return fmt.Errorf("before systemd 244, Type=oneshot may not have Restart=%s", s.Restart)
	case oneshot && (s.Restart == "always" || s.Restart == "on-success"):
		return fmt.Errorf("a service of Type=oneshot may not have Restart=%s", s.Restart)
	case oneshot && s.systemd < 256 && !s.RestartForce.Empty():
		return errors.New("before systemd 256, Type=oneshot may not have RestartForceExitStatus=")
	case oneshot && s.ExitType == "cgroup":
		return errors.New("a service of Type=oneshot may not have ExitType=cgroup")
	}
	if oneshot && s.RuntimeMax != Infinity {
		warn("RuntimeMaxSec= has no effect with Type=oneshot")
	}
	if s.RuntimeMax == Infinity && s.RuntimeRandomizedExtra != 0 {
		warn("RuntimeRandomizedExtraSec= has no effect without RuntimeMaxSec=")
	}
	if s.RestartMaxDelay == Infinity && s.RestartSteps > 0 {
		warn("RestartSteps= has no effect without RestartMaxDelaySec=")
	}
	if s.RestartMaxDelay != Infinity && s.RestartSteps == 0 {
		warn("RestartMaxDelaySec= has no effect without RestartSteps=")
	}
	if s.KillMode == "none" && s.systemd >= 246 {
		warn("KillMode=none is deprecated: processes of the service are left behind")
	}
	return nil
}

func (s *serviceLoader) serviceType(a unitfile.Assignment) error {
	switch a.Value {
	case "dbus":
		return errors.New("the stand-in does not support Type=dbus: there is no message bus")
	case "idle":
		return errors.New("the stand-in does not support Type=idle, which waits for the jobs of other units: Type=simple is the same without that")
	}
	return s.choice(&s.Type, "simple", "exec:240", "forking", "oneshot", "notify", "notify-reload:253")(a)
}

func (s *serviceLoader) startTimeout(a unitfile.Assignment) error {
	if err := s.timespan(&s.TimeoutStart, true)(a); err != nil {
		return err
	}
	s.startTimeoutSet = true
	if a.Key == "TimeoutSec" {
		s.TimeoutStop = s.TimeoutStart
	}
	return nil
}

func (s *serviceLoader) abortTimeout(a unitfile.Assignment) error {
	s.abortTimeoutSet = a.Value != ""
	if a.Value == "" {
		return nil
	}
	return s.timespan(&s.TimeoutAbort, false)(a)
}

func (s *serviceLoader) pidFile(a unitfile.Assignment) error {
	if a.Value == "" {
		s.PIDFile = ""
		return nil
	}
	text := s.withoutVar(a)
	if !strings.HasPrefix(text, "/") && !strings.HasPrefix(text, "%") {
		text = "%t/" + text
	}
	return assign(&s.PIDFile)(s.place(text))
}

func (s *serviceLoader) setDelegate(a unitfile.Assignment) error {
	on, err := unitfile.ParseBool(a.Value)
	s.delegate = on || err != nil // else it is a list of controllers, which may be empty
	return nil
}

// preserve reads no, yes as a boolean, or restart.
func (s *serviceLoader) preserve(p *string, more ...string) setter {
	return func(a unitfile.Assignment) error {
		if on, err := unitfile.ParseBool(a.Value); err == nil {
			*p = "no"
			if on {
				*p = "yes"
			}
			return nil
		}
		return s.choice(p, append([]string{"no", "yes", "restart"}, more...)...)(a)
	}
}

func (s *serviceLoader) workingDirectory(a unitfile.Assignment) error {
	if a.Value == "" {
		s.WorkingDirectory, s.WorkingDirectoryOptional = "", false
		return nil
	}
	text, optional := strings.CutPrefix(a.Value, "-")
	dir := text
	if text != "~" {
		var err error
		if dir, err = s.place(text); err != nil {
			return err
		}
	}
	s.WorkingDirectory, s.WorkingDirectoryOptional = dir, optional
	return nil
}

func (s *serviceLoader) environment(a unitfile.Assignment) error {
	if a.Value == "" {
		s.Environment = nil
		return nil
	}
	env, err := unitfile.ParseEnvironment(a.Value, s.expand)
	s.Environment = append(s.Environment, env...)
	return err
}

func (s *serviceLoader) environmentFile(a unitfile.Assignment) error {
	if a.Value == "" {
		s.EnvironmentFiles = nil
		return nil
	}
	text, optional := strings.CutPrefix(a.Value, "-")
	path, err := s.place(text)
	if err == nil {
		s.EnvironmentFiles = append(s.EnvironmentFiles, EnvironmentFile{Path: path, Optional: optional})
	}
	return err
}

func checkName(text string) error {
	if !unitfile.ValidEnvironmentName(text) {
		return fmt.Errorf("%q is not the name of a variable", text)
	}
	return nil
}

func checkNameOrAssignment(text string) error {
	text, _, _ = strings.Cut(text, "=")
	return checkName(text)
}

func (s *serviceLoader) execSearchPath(a unitfile.Assignment) error {
	if a.Value == "" {
		s.ExecSearchPath = nil
		return nil
	}
	for part := range strings.SplitSeq(a.Value, ":") {
		if part == "" {
			continue
		}
		// Not relocated: programs are looked up by whoever starts them.
		dir, err := s.expand(part)
		if err == nil {
			err = unitfile.CheckPath(dir, true)
		}
		if err != nil {
			return err
		}
		s.ExecSearchPath = append(s.ExecSearchPath, unitfile.CleanPath(dir))
	}
	return nil
}

func (s *serviceLoader) standardInput(a unitfile.Assignment) error {
	if path, ok := strings.CutPrefix(a.Value, "file:"); ok {
		path, err := s.place(path)
		return assign(&s.StandardInput)("file:"+path, err)
	}
	if text, ok := strings.CutPrefix(a.Value, "fd:"); ok {
		return assign(&s.StandardInput)(s.descriptorName(text))
	}
	switch a.Value {
	case "tty", "tty-force", "tty-fail":
		return fmt.Errorf("%q is not supported: there is no terminal", a.Value)
	case "fd":
		s.StandardInput = "fd:stdin"
		return nil
	}
	return s.choice(&s.StandardInput, "null", "socket", "data")(a)
}

// descriptorName reads the name of "fd:NAME".
func (s *serviceLoader) descriptorName(text string) (string, error) {
	text, err := s.expand(text)
	if err == nil && !validDescriptorName(text) {
		err = fmt.Errorf("%q is not the name of a descriptor: up to 255 printable ASCII characters, and no colon", text)
	}
	return "fd:" + text, err
}

// validDescriptorName is what $LISTEN_FDNAMES can hold.
func validDescriptorName(text string) bool {
	return len(text) <= 255 && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' || r == ':' })
}

func (s *serviceLoader) standardOutput(p *string) setter {
	return func(a unitfile.Assignment) error {
		for _, way := range []struct {
			prefix string
			since  int
		}{{"file:", OldestSystemd}, {"append:", 240}, {"truncate:", 248}} {
			path, ok := strings.CutPrefix(a.Value, way.prefix)
			if !ok {
				continue
			}
			if s.systemd < way.since {
				return fmt.Errorf("%q is a value since systemd %d, and this is %d", way.prefix, way.since, s.systemd)
			}
			path, err := s.place(path)
			return assign(p)(way.prefix+path, err)
		}
		if text, ok := strings.CutPrefix(a.Value, "fd:"); ok {
			return assign(p)(s.descriptorName(text))
		}
		switch a.Value {
		case "tty", "kmsg", "kmsg+console":
			return fmt.Errorf("%q is not supported: the terminals and the kernel's log are the host's", a.Value)
		case "fd":
			*p = "fd:" + map[string]string{"StandardOutput": "stdout", "StandardError": "stderr"}[a.Key]
			return nil
		case "syslog", "syslog+console":
			if s.systemd >= 246 {
				s.warn(a, `the value is obsolete: systemd takes it for "journal"`)
			}
			*p = "journal"
			return nil
		}
		return s.choice(p, "inherit", "null", "journal", "journal+console", "socket")(a)
	}
}

func (s *serviceLoader) inputText(a unitfile.Assignment) error {
	if a.Value == "" {
		s.StandardInputData = nil
		return nil
	}
	text, err := unitfile.Unescape(a.Value)
	if err == nil {
		text, err = s.expand(text)
	}
	if err == nil {
		s.StandardInputData = append(append(s.StandardInputData, text...), '\n')
	}
	return err
}

func (s *serviceLoader) inputData(a unitfile.Assignment) error {
	if a.Value == "" {
		s.StandardInputData = nil
		return nil
	}
	data, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(a.Value), ""))
	if err != nil {
		return fmt.Errorf("the value is not base64: %w", err)
	}
	s.StandardInputData = append(s.StandardInputData, data...)
	return nil
}

func (s *serviceLoader) syslogLevel(a unitfile.Assignment) error {
	names := []string{"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}
	level := slices.Index(names, a.Value)
	if n, err := unitfile.ParseUnsigned(a.Value, 3); err == nil {
		level = int(n)
	}
	if level < 0 {
		return fmt.Errorf("%q is not a log level: %s, or 0 to 7", a.Value, strings.Join(names, ", "))
	}
	s.SyslogLevel = level
	return nil
}

// directories reads RuntimeDirectory= and the like: "dir", "dir:link",
// "dir:link:flags".
func (s *serviceLoader) directories(p *[]string) setter {
	return func(a unitfile.Assignment) error {
		if a.Value == "" {
			*p = nil
			s.DirectoryLinks = slices.DeleteFunc(s.DirectoryLinks, func(l DirectoryLink) bool { return l.Option == a.Key })
			return nil
		}
		words, err := unitfile.QuotedWords(a.Value)
		if err != nil {
			return err
		}
		for _, word := range words {
			fields, err := unitfile.Fields(word, ":")
			if err != nil {
				return err
			}
			switch {
			case len(fields) > 1 && s.systemd < 250:
				return fmt.Errorf("%q: a link beside the directory is of systemd 250, and this is %d", word, s.systemd)
			case len(fields) > 2 && (s.systemd < 257 || fields[2] != "ro" && fields[2] != "") || len(fields) > 3:
				return fmt.Errorf(`%q has too many fields: directory, link and, since systemd 257, "ro"`, word)
			case len(fields) > 1 && fields[1] != "" && a.Key == "ConfigurationDirectory":
				return fmt.Errorf("%q: this directory has no links", word)
			}
			for i, field := range fields[:min(len(fields), 2)] {
				if i > 0 && field == "" {
					continue
				}
				dir, err := s.expand(field)
				if err == nil {
					err = unitfile.CheckPath(dir, false)
				}
				if err != nil {
					return err
				}
				fields[i] = unitfile.CleanPath(dir)
				if first, _, _ := strings.Cut(fields[i], "/"); first == "private" || first == "" {
					return fmt.Errorf(`%q: "private" is systemd's own`, word)
				}
			}
			*p = append(*p, fields[0])
			if len(fields) > 1 && fields[1] != "" {
				s.DirectoryLinks = append(s.DirectoryLinks, DirectoryLink{Option: a.Key, Path: fields[0], Link: fields[1]})
			}
		}
		return nil
	}
}

func (s *serviceLoader) openFile(a unitfile.Assignment) error {
	if a.Value == "" {
		s.OpenFiles = nil
		return nil
	}
	fields, err := unitfile.Fields(a.Value, ":")
	if err != nil {
		return err
	}
	if len(fields) > 3 {
		return fmt.Errorf("%q has too many fields: path, name and options", a.Value)
	}
	fields = append(fields, "", "")
	var f OpenFile
	// The path has no specifiers: systemd fills none in.
	if f.Path, err = s.place(strings.ReplaceAll(fields[0], "%", "%%")); err != nil {
		return err
	}
	f.Name = cmp.Or(fields[1], f.Path[strings.LastIndexByte(f.Path, '/')+1:])
	if !validDescriptorName(f.Name) {
		return fmt.Errorf("%q is not the name of a descriptor: up to 255 printable ASCII characters, and no colon", f.Name)
	}
	flags := map[string]*bool{"read-only": &f.ReadOnly, "append": &f.Append, "truncate": &f.Truncate, "graceful": &f.Graceful}
	for word := range strings.SplitSeq(fields[2], ",") {
		if word == "" {
			continue
		}
		flag := flags[word]
		if flag == nil || *flag {
			return fmt.Errorf("%q is none of the options, or is there twice: read-only, append, truncate, graceful", word)
		}
		*flag = true
	}
	if f.ReadOnly && (f.Append || f.Truncate) || f.Append && f.Truncate {
		return errors.New("of read-only, append and truncate a file can have one")
	}
	s.OpenFiles = append(s.OpenFiles, f)
	return nil
}
