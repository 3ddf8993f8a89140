module github.com/holdfast-go/holdfast/reexec/reexectest/examples/websocket

go 1.25.0

require (
	github.com/gorilla/websocket v1.5.3
	github.com/holdfast-go/holdfast v0.0.0
)

require golang.org/x/sys v0.47.0

replace github.com/holdfast-go/holdfast => ../../../..
