// Command hello is the workload that tests and the demo deploy: an HTTP server
// that says which version it is, shows what it was given, and ends, ignores
// signals or checks health as told.
//
// Its standard output is lines of text. Paths: / is the value of VERSION; /env
// the environment; /env?name=N one variable; /file?path=P a file; /exit?code=N
// ends the program.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	exitAfter := flag.Duration("exit-after", 0, "end after this time; 0 means never")
	exitCode := flag.Int("exit-code", 0, "exit code with -exit-after")
	ignoreTerm := flag.Bool("ignore-term", false, "keep running on SIGTERM")
	check := flag.String("check", "", "do not serve: exit 0 when this URL answers 200, else 1")
	lookup := flag.String("lookup", "", "do not serve: print the addresses of this name, exit 1 when there are none")
	dial := flag.String("dial", "", "do not serve: exit 0 when something takes a connection at this host:port, else 1")
	fill := flag.String("fill", "", "do not serve: write this file until the volume is full")
	empty := flag.String("empty", "", "do not serve: remove this file")
	flag.Parse()
	if *check != "" {
		os.Exit(healthCheck(*check))
	}
	if *lookup != "" {
		os.Exit(addresses(*lookup))
	}
	if *fill != "" {
		os.Exit(filled(*fill))
	}
	if *empty != "" {
		os.Exit(emptied(*empty))
	}
	if *dial != "" {
		os.Exit(taken(*dial))
	}
	if *exitAfter > 0 {
		time.AfterFunc(*exitAfter, func() { exit(*exitCode, "time is up") })
	}
	go onTerm(*ignoreTerm)
	if err := serve(); err != nil {
		exit(1, err.Error())
	}
}

func exit(code int, reason string) {
	fmt.Printf("hello: ending with code %d: %s\n", code, reason)
	os.Exit(code)
}

// onTerm handles SIGTERM itself: process 1 of a container has no default action.
func onTerm(ignore bool) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	for range signals {
		if !ignore {
			exit(0, "SIGTERM")
		}
		fmt.Println("hello: ignoring SIGTERM")
	}
}

func healthCheck(url string) int {
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		fmt.Println("hello: unhealthy:", err)
		return 1
	}
	defer response.Body.Close()
	fmt.Println("hello:", url, "answers", response.Status)
	if response.StatusCode != http.StatusOK {
		return 1
	}
	return 0
}

func addresses(name string) int {
	found, err := net.LookupHost(name)
	if err != nil {
		fmt.Println("hello:", err)
		return 1
	}
	fmt.Println(strings.Join(found, "\n"))
	return 0
}

func taken(address string) int {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		fmt.Println("hello:", err)
		return 1
	}
	fmt.Println("hello:", address, "takes connections")
	conn.Close()
	return 0
}

func filled(path string) int {
	file, err := os.Create(path)
	for block := make([]byte, 4<<10); err == nil; {
		_, err = file.Write(block)
	}
	fmt.Println("hello:", err)
	if !errors.Is(err, syscall.ENOSPC) {
		return 1
	}
	return 0
}

func emptied(path string) int {
	if err := os.Remove(path); err != nil {
		fmt.Println("hello:", err)
		return 1
	}
	return 0
}

func serve() error {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, os.Getenv("VERSION"))
	})
	http.HandleFunc("GET /env", func(w http.ResponseWriter, r *http.Request) {
		if name := r.FormValue("name"); name != "" {
			fmt.Fprintln(w, os.Getenv(name))
			return
		}
		environment := os.Environ()
		slices.Sort(environment)
		fmt.Fprintln(w, strings.Join(environment, "\n"))
	})
	http.HandleFunc("GET /file", func(w http.ResponseWriter, r *http.Request) {
		content, err := os.ReadFile(r.FormValue("path"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		_, _ = w.Write(content)
	})
	http.HandleFunc("/exit", func(_ http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.FormValue("code"))
		if err != nil {
			code = 1
		}
		exit(code, "asked to")
	})
	fmt.Printf("hello: version %s serving on port %s\n", os.Getenv("VERSION"), port)
	server := &http.Server{Addr: ":" + port, ReadHeaderTimeout: 5 * time.Second}
	return server.ListenAndServe()
}
