module anyport/guests/wasmedge/go-net

go 1.21
