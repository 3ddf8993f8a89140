// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"strings"

	"github.com/godbus/dbus/v5"
)

// CallInteractive is CallWithContext of package dbus for a method that polkit may ask the
// user about: package dbus takes the flag for that out of what it sends. It returns
// when there is an answer, ctx has ended, or the connection.
func CallInteractive(ctx context.Context, conn *dbus.Conn, destination string, path dbus.ObjectPath, method string, args ...any) *dbus.Call {
	i := strings.LastIndexByte(method, '.')
	msg := &dbus.Message{
		Type: dbus.TypeMethodCall, Flags: dbus.FlagAllowInteractiveAuthorization, Body: args,
		Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldDestination: dbus.MakeVariant(destination),
			dbus.FieldPath:        dbus.MakeVariant(path),
			dbus.FieldInterface:   dbus.MakeVariant(method[:max(i, 0)]),
			dbus.FieldMember:      dbus.MakeVariant(method[i+1:]),
		},
	}
	if len(args) > 0 {
		msg.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(args...))
	}
	return <-conn.SendWithContext(ctx, msg, make(chan *dbus.Call, 1)).Done
}
