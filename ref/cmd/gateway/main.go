// Command gateway is the reference Gateway: the HTTP ingress of strategies.
package main

import (
	"os"

	"qmtl.internal/plumbline/ref/gateway"
	"qmtl.internal/plumbline/ref/internal/service"
)

func main() { os.Exit(service.Main(gateway.Spec())) }
