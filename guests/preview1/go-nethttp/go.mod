module anyport/guests/preview1/go-nethttp

go 1.21
