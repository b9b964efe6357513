// CoreDNS with the plugins that the cluster's Corefile names, and no others: the libraries of clouds and of tracing that the rest
// bring take longer to compile than all of CoreDNS.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

// A query passes the plugins of a server block in this order, whatever the order in the Corefile.
func init() {
	dnsserver.Directives = []string{"health", "ready", "errors", "template", "kubernetes"}
}

func main() {
	coremain.Run()
}
