// SPDX-License-Identifier: Apache-2.0

package manager

import "slices"

// A state is a state of a service. Its name is the SubState that systemd shows.
type state string

// The states of a service.
const (
	serviceDead                    state = "dead"
	serviceCondition               state = "condition"
	serviceStartPre                state = "start-pre"
	serviceStart                   state = "start"
	serviceStartPost               state = "start-post"
	serviceRunning                 state = "running"
	serviceExited                  state = "exited"
	serviceReload                  state = "reload"
	serviceReloadSignal            state = "reload-signal"
	serviceReloadNotify            state = "reload-notify"
	serviceReloadPost              state = "reload-post"
	serviceStop                    state = "stop"
	serviceStopWatchdog            state = "stop-watchdog"
	serviceStopSigterm             state = "stop-sigterm"
	serviceStopSigkill             state = "stop-sigkill"
	serviceStopPost                state = "stop-post"
	serviceFinalWatchdog           state = "final-watchdog"
	serviceFinalSigterm            state = "final-sigterm"
	serviceFinalSigkill            state = "final-sigkill"
	serviceFailed                  state = "failed"
	serviceDeadBeforeAutoRestart   state = "dead-before-auto-restart"
	serviceFailedBeforeAutoRestart state = "failed-before-auto-restart"
	serviceDeadResourcesPinned     state = "dead-resources-pinned"
	serviceAutoRestart             state = "auto-restart"
	serviceAutoRestartQueued       state = "auto-restart-queued"
)

// activeState is what a state means to other units and to jobs.
type activeState string

// The ActiveStates of a service.
const (
	unitInactive     activeState = "inactive"
	unitActivating   activeState = "activating"
	unitActive       activeState = "active"
	unitReloading    activeState = "reloading"
	unitDeactivating activeState = "deactivating"
	unitFailed       activeState = "failed"
)

// up reports whether a start would find nothing to do, down whether a stop would.
func (a activeState) up() bool   { return a == unitActive || a == unitReloading }
func (a activeState) down() bool { return a == unitInactive || a == unitFailed }

// stateRules is what holds in a state.
type stateRules struct {
	active  activeState
	main    bool // there may be a main process
	control bool // there may be a control process
	timed   bool // the state timer may be armed
	watched bool // the watchdog may be armed
	// mainPID is the version from which MAINPID= is accepted; 0 is never.
	mainPID int
	// free says that sockets may listen again when the service is in this
	// state and has no job.
	free bool
	// since is the version that has the state.
	since int
}

const always = 1 // in every version

// stateTable is the table of all states, in the order of a service's life.
var stateTable = map[state]stateRules{
	serviceDead: {active: unitInactive, free: true},

	serviceCondition: {active: unitActivating, control: true, timed: true},
	serviceStartPre:  {active: unitActivating, control: true, timed: true},
	serviceStart:     {active: unitActivating, main: true, control: true, timed: true, mainPID: always},
	serviceStartPost: {active: unitActivating, main: true, control: true, timed: true, watched: true, mainPID: always},

	serviceRunning: {active: unitActive, main: true, timed: true, watched: true, mainPID: always},
	serviceExited:  {active: unitActive},

	// Up to 252, reload is also what RELOADING=1 leads to.
	serviceReload:       {active: unitReloading, main: true, control: true, timed: true, watched: true, mainPID: always},
	serviceReloadSignal: {active: unitReloading, main: true, timed: true, watched: true, mainPID: 253, since: 253},
	serviceReloadNotify: {active: unitReloading, main: true, timed: true, watched: true, mainPID: 253, since: 253},
	serviceReloadPost:   {active: unitReloading, main: true, control: true, timed: true, watched: true, mainPID: 259, since: 259},

	serviceStop:          {active: unitDeactivating, main: true, control: true, timed: true, mainPID: 256},
	serviceStopWatchdog:  {active: unitDeactivating, main: true, control: true, timed: true},
	serviceStopSigterm:   {active: unitDeactivating, main: true, control: true, timed: true, mainPID: 256},
	serviceStopSigkill:   {active: unitDeactivating, main: true, control: true, timed: true},
	serviceStopPost:      {active: unitDeactivating, main: true, control: true, timed: true},
	serviceFinalWatchdog: {active: unitDeactivating, main: true, control: true, timed: true, since: 246},
	serviceFinalSigterm:  {active: unitDeactivating, main: true, control: true, timed: true, free: true},
	serviceFinalSigkill:  {active: unitDeactivating, main: true, control: true, timed: true, free: true},

	serviceFailed: {active: unitFailed, free: true},

	// Nothing stays in the first two: they are there to be seen. Up to 253
	// those are dead and failed themselves.
	serviceDeadBeforeAutoRestart:   {active: unitInactive, free: true, since: 254},
	serviceFailedBeforeAutoRestart: {active: unitFailed, free: true, since: 254},
	serviceDeadResourcesPinned:     {active: unitInactive, free: true, since: 254},
	serviceAutoRestart:             {active: unitActivating, timed: true, free: true},
	serviceAutoRestartQueued:       {active: unitActivating, free: true, since: 254},
}

func (st state) rules() stateRules   { return stateTable[st] }
func (st state) active() activeState { return stateTable[st].active }

// is reports whether the state is one of a list.
func (st state) is(list ...state) bool { return slices.Contains(list, st) }

// subState is the name of the state in a version of systemd.
func (st state) subState(version int) string {
	if st == serviceStopWatchdog && version < 242 {
		return "stop-sigabrt"
	}
	return string(st)
}

// acceptsMainPID reports whether MAINPID= is heard in this state.
func (st state) acceptsMainPID(version int) bool {
	since := st.rules().mainPID
	return since != 0 && version >= since
}

// A result is why a service, a reload or a clean ended as it did.
type result string

// The results of a service.
const (
	resultSuccess       result = "success"
	resultResources     result = "resources"
	resultProtocol      result = "protocol"
	resultTimeout       result = "timeout"
	resultExitCode      result = "exit-code"
	resultSignal        result = "signal"
	resultCoreDump      result = "core-dump"
	resultWatchdog      result = "watchdog"
	resultStartLimitHit result = "start-limit-hit"
	resultExecCondition result = "exec-condition"
)
