// SPDX-License-Identifier: Apache-2.0

// Package config is a typed configuration that is read again while the service runs:
// without another process, and without a request that sees half of it. It imports
// the standard library only, and can be used without package reexec.
//
//	cfg := config.New(load, (*Settings).validate)
//	db := config.NewPart(cfg, "database",
//		func(s *Settings) string { return s.DSN }, // built again when this changes
//		openPool,
//		func(ctx context.Context, p *Pool) error { return p.Close(ctx) })
//	if err := cfg.Reload(ctx); err != nil {
//		log.Fatal(err) // also what a pre-check says: reexec.Options.Check
//	}
//	svc.OnReload("configuration", cfg)
//	svc.Serve(&http.Server{Handler: cfg.Handler(mux)}, ln)
//	err = svc.Run(ctx)
//	_ = cfg.Close(ctx)
//
// and in a handler:
//
//	s := cfg.FromContext(r.Context())
//	row := db.In(s).Query(s.Value().Table)
//
// # A reload
//
// The new configuration is loaded and validated, and what depends on what has changed
// is built beside the old. Then one pointer is swapped: a request that has begun sees
// the old configuration with its parts to its end, one that begins sees the new one.
// A part whose key has not changed stays. After an error the old configuration stays,
// and what was built for the new one is drained.
//
// What was replaced is drained when the last request that has it is over, or after
// DrainTimeout, whatever comes first: requests that take longer, such as WebSockets,
// must bear that, or pin anew (NewContext). Each part is drained exactly once, also one that was
// built for nothing. So at most those of the last DrainTimeout are there beside what
// is in use.
//
// # The unit
//
// systemctl reload is the upgrade in the units that holdfast render writes.
// The configuration is then read by one of
//
//	holdfast reload --config myapp
//	systemctl kill -s HUP --kill-whom=main myapp  (--kill-who= before systemd 252)
//
// The first waits, and fails with the reason if the configuration is refused. Without
// --kill-whom=main the signal goes to every process of the unit, and ends those that
// have no handler for it, such as a pre-check.
//
// Where systemctl reload is to read the configuration, and upgrades are asked for by
// "holdfast reload myapp" (or are a restart):
//
//	[Service]
//	Type=notify
//	ExecReload=/usr/bin/holdfast reload --config --socket=%t/myapp/control.sock
//
// From systemd 253 on the service can do without the command:
//
//	[Service]
//	Type=notify-reload
//	# SIGHUP is the default; SIGUSR2 would be the upgrade.
//	ReloadSignal=SIGHUP
//
// but then systemctl reload succeeds also when the configuration is refused: systemd
// knows no reload that fails, and STATUS= has the reason.
package config
