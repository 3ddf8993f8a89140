// SPDX-License-Identifier: Apache-2.0

// Command memo is a service without a socket unit. It binds its sockets itself,
// and systemd's fd store gives them back when it was killed, with the memos and
// the conversations that it keeps there: see crash_test.go.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec"
)

func main() {
	web := flag.String("http", "127.0.0.1:7080", "where memos are kept")
	echo := flag.String("echo", "127.0.0.1:7080", "where datagrams are echoed")
	talk := flag.String("talk", "unix:/run/memo-talk.sock", "where conversations are held, network:address")
	probation := flag.Duration("probation", 5*time.Second, "how long a new version is on trial")
	flag.Parse()
	if err := run(*web, *echo, *talk, *probation); err != nil {
		log.Fatal(err)
	}
}

func run(web, echo, talk string, probation time.Duration) error {
	service, err := reexec.New(reexec.Options{Name: "memo", Probation: probation})
	if err != nil {
		return err
	}
	listener, err := service.Listen("http", "tcp", web)
	if err != nil {
		return err
	}
	service.Serve(&http.Server{Handler: handler(service)}, listener)
	packets, err := service.ListenPacket("echo", "udp", echo)
	if err != nil {
		return err
	}
	go echoPackets(packets)
	network, address, _ := strings.Cut(talk, ":")
	talks, err := service.Listen("talk", network, address)
	if err != nil {
		return err
	}
	go accept(service, talks)
	if service.Generation() == 1 { // in an upgrade the old version goes on with them
		for _, name := range service.KeptNames() {
			if err := resume(service, name); err != nil {
				return err
			}
		}
	}
	return service.Run(context.Background())
}

func handler(service *reexec.Service) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(service.Status())
	})
	mux.HandleFunc("PUT /memo/{name}", func(w http.ResponseWriter, r *http.Request) {
		if err := write(service, r); err != nil {
			http.Error(w, err.Error(), http.StatusInsufficientStorage)
		}
	})
	mux.HandleFunc("GET /memo/{name}", func(w http.ResponseWriter, r *http.Request) {
		memo, err := service.Kept("memo " + r.PathValue("name"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		defer memo.Close()
		_, _ = io.Copy(w, io.NewSectionReader(memo, 0, 1<<20))
	})
	mux.HandleFunc("DELETE /memo/{name}", func(w http.ResponseWriter, r *http.Request) {
		if err := service.Release(r.Context(), "memo "+r.PathValue("name")); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return mux
}

// write keeps a memo in memory of its own, which outlives the process.
func write(service *reexec.Service, r *http.Request) error {
	name := "memo " + r.PathValue("name")
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	memo := os.NewFile(uintptr(fd), name)
	defer memo.Close()
	if _, err := io.Copy(memo, r.Body); err != nil {
		return err
	}
	return service.Keep(r.Context(), name, memo)
}

func echoPackets(packets net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := packets.ReadFrom(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err == nil:
			_, _ = packets.WriteTo(buf[:n], from)
		}
	}
}

// talking begins the names under which conversations are kept.
const talking = "talk "

func accept(service *reexec.Service, talks net.Listener) {
	for n := 1; ; n++ {
		conn, err := talks.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // such as too many open files, which passes
			log.Print(err)
			time.Sleep(50 * time.Millisecond)
			continue
		}
		name := fmt.Sprintf("%s%d.%d", talking, os.Getpid(), n)
		if err := service.Keep(context.Background(), name, conn.(syscall.Conn)); err != nil {
			log.Print(err)
		}
		go converse(service, name, conn)
	}
}

// resume goes on with a conversation of a process that was killed.
func resume(service *reexec.Service, name string) error {
	if !strings.HasPrefix(name, talking) {
		return nil
	}
	file, err := service.Kept(name)
	if err != nil {
		return err
	}
	conn, err := net.FileConn(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	go converse(service, name, conn)
	return nil
}

// converse answers each line with itself and the process that has read it.
func converse(service *reexec.Service, name string, conn net.Conn) {
	for in := bufio.NewScanner(conn); in.Scan(); {
		if _, err := fmt.Fprintf(conn, "%s %d\n", in.Text(), os.Getpid()); err != nil {
			break
		}
	}
	_ = conn.Close()
	err := service.Release(context.Background(), name)
	if err != nil && !errors.Is(err, reexec.ErrNotMain) { // then it is no longer ours to say
		log.Print(err)
	}
}
