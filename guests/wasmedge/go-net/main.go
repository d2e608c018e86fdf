// A Go server for WasmEdge. Go can't open a socket on wasip1, so the program imports the host's calls
// itself, as libraries for WasmEdge do, and hands what it opened to package net.
//
// What a runtime has to get right for it: one module mixes the shapes of two dialects. Go's own
// runtime imports preview 1's accept of three parameters, next to WasmEdge's sock_open and sock_bind;
// and sock_getlocaladdr is the one of three parameters, with a 128-byte address.
package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	port, err := strconv.ParseUint(env("PORT", "8080"), 10, 16)
	exitOn("PORT", err)
	listener, address, err := listen(uint16(port))
	exitOn("listen", err)
	fmt.Println("listening on", address)

	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from Go: %s %s\n", r.Method, r.URL.Path)
	})
	http.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
		name, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "👋 Hello %s\n", name)
	})
	http.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	})
	http.HandleFunc("/sleep", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(200 * time.Millisecond)
		fmt.Fprintln(w, "slept")
	})
	exitOn("serve", http.Serve(listener, nil))
}

const (
	inet4          = 1
	stream         = 2
	levelSocket    = 0
	optionReuse    = 0
	backlog        = 64
	addressBufSize = 128
)

// listen opens a listener on all of the guest's IPv4 addresses.
func listen(port uint16) (net.Listener, netip.AddrPort, error) {
	var none netip.AddrPort
	var fd, yes int32 = 0, 1
	if err := failure("sock_open", sock_open(inet4, stream, unsafe.Pointer(&fd))); err != nil {
		return nil, none, err
	}
	// package net takes over non-blocking descriptors only.
	if err := syscall.SetNonblock(int(fd), true); err != nil {
		return nil, none, err
	}
	e := sock_setsockopt(fd, levelSocket, optionReuse, unsafe.Pointer(&yes), 4)
	if err := failure("sock_setsockopt", e); err != nil {
		return nil, none, err
	}
	if err := bind(fd, port); err != nil {
		return nil, none, err
	}
	if err := failure("sock_listen", sock_listen(fd, backlog)); err != nil {
		return nil, none, err
	}
	address, err := localAddress(fd)
	if err != nil {
		return nil, none, err
	}
	file := os.NewFile(uintptr(fd), "listener")
	defer file.Close() // FileListener keeps a reference of its own
	listener, err := net.FileListener(file)
	return listener, address, err
}

func bind(fd int32, port uint16) error {
	everywhere := new([4]byte)
	argument := address(unsafe.Pointer(everywhere), 4)
	e := sock_bind(fd, unsafe.Pointer(argument), uint32(port))
	runtime.KeepAlive(everywhere)
	return failure("sock_bind", e)
}

func localAddress(fd int32) (netip.AddrPort, error) {
	buf := new([addressBufSize]byte)
	argument := address(unsafe.Pointer(buf), addressBufSize)
	var port uint32
	e := sock_getlocaladdr(fd, unsafe.Pointer(argument), unsafe.Pointer(&port))
	if err := failure("sock_getlocaladdr", e); err != nil {
		return netip.AddrPort{}, err
	}
	if family := binary.LittleEndian.Uint16(buf[:]); family != inet4 {
		return netip.AddrPort{}, fmt.Errorf("sock_getlocaladdr: family %d", family)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(buf[2:6])), uint16(port)), nil
}

// address makes the address argument of a hostcall: where the bytes are, and how many, as the two
// 32-bit words of wasm. It hides the pointer from the collector, so its caller keeps the bytes alive.
func address(bytes unsafe.Pointer, length uint32) *[2]uint32 {
	return &[2]uint32{uint32(uintptr(bytes)), length}
}

//go:wasmimport wasi_snapshot_preview1 sock_open
//go:noescape
func sock_open(family, kind int32, fd unsafe.Pointer) uint32

//go:wasmimport wasi_snapshot_preview1 sock_setsockopt
//go:noescape
func sock_setsockopt(fd, level, name int32, value unsafe.Pointer, length uint32) uint32

//go:wasmimport wasi_snapshot_preview1 sock_bind
//go:noescape
func sock_bind(fd int32, address unsafe.Pointer, port uint32) uint32

//go:wasmimport wasi_snapshot_preview1 sock_listen
//go:noescape
func sock_listen(fd, backlog int32) uint32

//go:wasmimport wasi_snapshot_preview1 sock_getlocaladdr
//go:noescape
func sock_getlocaladdr(fd int32, address, port unsafe.Pointer) uint32

func failure(call string, errno uint32) error {
	if errno == 0 {
		return nil
	}
	return os.NewSyscallError(call, syscall.Errno(errno))
}

func env(name, otherwise string) string {
	if value, ok := os.LookupEnv(name); ok {
		return value
	}
	return otherwise
}

func exitOn(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}
