// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/godbus/dbus/v5"
)

// Result is how a job ended, in systemd's words.
type Result string

// Done is the result of a job that did what it was for.
const Done Result = "done"

// results are those of org.freedesktop.systemd1(5), up to systemd 262.
var results = []Result{
	Done, "canceled", "timeout", "failed", "dependency", "skipped", "invalid",
	"assert", "unsupported", "collected", "once", "frozen", "concurrency",
}

// LostError says that a job is over and that its result was not heard, because the
// connection was lost or systemd had executed itself anew.
type LostError struct{ Unit string }

func (e *LostError) Error() string {
	return fmt.Sprintf("job of %s: it is over, and its result was lost with the connection", e.Unit)
}

// ResultError says that a job ended with a result that this release does not know.
type ResultError struct{ Unit, Result string }

func (e *ResultError) Error() string {
	return fmt.Sprintf("job of %s: its result is %q, which this release does not know: systemd is newer", e.Unit, e.Result)
}

const (
	// jobInterval is between two looks whether a job still exists. Its end comes
	// as a signal, unless that is lost.
	jobInterval = time.Second
	// jobGrace is how long a signal may take after its job is gone.
	jobGrace = 2 * time.Second
)

// Job is a job of systemd.
type Job struct {
	Unit string
	conn *Conn
	path dbus.ObjectPath
	// ended has room for the result.
	ended chan string
}

// Reload asks systemd to reload a unit. A job that is in the way is not replaced:
// that is an error of systemd's, org.freedesktop.systemd1.TransactionIsDestructive.
// The caller waits for the job, or calls Forget.
func (c *Conn) Reload(ctx context.Context, unit string) (*Job, error) {
	return c.job(ctx, "reload", "ReloadUnit", unit)
}

// Restart asks systemd to restart a unit, as [Conn.Reload] does to reload it.
func (c *Conn) Restart(ctx context.Context, unit string) (*Job, error) {
	return c.job(ctx, "restart", "RestartUnit", unit)
}

func (c *Conn) job(ctx context.Context, op, method, unit string) (*Job, error) {
	c.mu.Lock()
	c.asking++
	c.mu.Unlock()
	call, err := c.call(ctx, true, managerPath, managerIface+"."+method, unit, "fail")
	job := &Job{Unit: unit, conn: c, ended: make(chan string, 1)}
	if err == nil {
		err = call.Store(&job.path)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		// JobRemoved may come before the answer.
		if result, ok := c.unasked[job.path]; ok {
			job.ended <- result
		} else {
			c.jobs[job.path] = job
		}
	}
	if c.asking--; c.asking == 0 {
		clear(c.unasked)
	}
	if err != nil {
		return nil, fault(ctx, op, unit, err)
	}
	return job, nil
}

// jobRemoved takes in a signal.
func (c *Conn) jobRemoved(path dbus.ObjectPath, result string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if job, ok := c.jobs[path]; ok {
		delete(c.jobs, path)
		job.ended <- result
	} else if c.asking > 0 {
		c.unasked[path] = result
	}
}

// Forget says that nobody will wait for the job. It goes on.
func (j *Job) Forget() {
	j.conn.mu.Lock()
	defer j.conn.mu.Unlock()
	if j.conn.jobs[j.path] == j {
		delete(j.conn.jobs, j.path)
	}
}

// Wait waits for the end of the job. While systemd is away it waits on, up to
// Options.Patience. The job goes on when ctx ends.
func (j *Job) Wait(ctx context.Context) (Result, error) {
	defer j.Forget()
	tick := time.NewTicker(jobInterval)
	defer tick.Stop()
	for {
		select {
		case result := <-j.ended:
			return j.result(result)
		case <-ctx.Done():
			return "", fmt.Errorf("wait for the job of %s: %w", j.Unit, context.Cause(ctx))
		case <-tick.C:
		}
		there, err := j.exists(ctx)
		if err != nil {
			return "", fault(ctx, "wait for the job of", j.Unit, err)
		}
		if there {
			continue
		}
		select {
		case result := <-j.ended:
			return j.result(result)
		case <-ctx.Done():
		case <-time.After(jobGrace):
			return "", &LostError{j.Unit}
		}
	}
}

func (j *Job) exists(ctx context.Context) (bool, error) {
	_, err := j.conn.call(ctx, false, j.path, properties+".Get", destination+".Job", "State")
	var e dbus.Error
	if errors.As(err, &e) && e.Name == "org.freedesktop.DBus.Error.UnknownObject" || e.Name == destination+".NoSuchJob" {
		return false, nil
	}
	// systemd up to 247 says of an object that is not there that it has no such
	// method or interface.
	if e.Name == "org.freedesktop.DBus.Error.UnknownMethod" || e.Name == "org.freedesktop.DBus.Error.UnknownInterface" {
		return false, nil
	}
	return err == nil, err
}

func (j *Job) result(text string) (Result, error) {
	if !slices.Contains(results, Result(text)) {
		return "", &ResultError{j.Unit, text}
	}
	return Result(text), nil
}
