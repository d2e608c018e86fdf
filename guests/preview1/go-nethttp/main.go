// Go's net/http for plain preview 1: the listener is the runtime's, preopened as fd 3 (or $LISTEN_FD).
// Go's runtime imports preview 1's accept of three parameters, and waits in poll_oneoff.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	fd := uint64(3)
	if given, ok := os.LookupEnv("LISTEN_FD"); ok {
		var err error
		fd, err = strconv.ParseUint(given, 10, 31)
		exitOn("LISTEN_FD", err)
	}
	listener, err := net.FileListener(os.NewFile(uintptr(fd), "listener"))
	exitOn("FileListener", err)
	fmt.Println("listening on fd", fd)

	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from Go: %s %s\n", r.Method, r.URL.Path)
	})
	http.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	})
	http.HandleFunc("/big/", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat("x", number(r, "/big/")))
	})
	http.HandleFunc("/sleep/", func(w http.ResponseWriter, r *http.Request) {
		ms := number(r, "/sleep/")
		time.Sleep(time.Duration(ms) * time.Millisecond)
		fmt.Fprintf(w, "slept %d\n", ms)
	})
	// Five chunks, 100 ms apart: the timer and the socket wait in one poll_oneoff.
	http.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < 5; i++ {
			time.Sleep(100 * time.Millisecond)
			fmt.Fprintf(w, "chunk %d\n", i)
			w.(http.Flusher).Flush()
		}
	})
	exitOn("serve", http.Serve(listener, nil))
}

// number is what follows a prefix of a request's path; 0 if it is none.
func number(r *http.Request, prefix string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, prefix))
	return max(n, 0)
}

func exitOn(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}
