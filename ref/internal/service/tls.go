package service

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
)

// tlsFiles name what a side of a TLS connection shows and whom it believes; all
// are PEM. The zero value means no TLS.
type tlsFiles struct{ cert, key, ca string }

// serverFlags are the flags of the service's own listeners.
func (f *tlsFiles) serverFlags(fs *flag.FlagSet) {
	fs.StringVar(&f.cert, "tls-cert", "", "`FILE` with the certificates that the service shows, in PEM; empty: no TLS. The admin address never has it")
	fs.StringVar(&f.key, "tls-key", "", "`FILE` with the private key of --tls-cert")
	fs.StringVar(&f.ca, "tls-client-ca", "", "`FILE` with the authorities that clients must have a certificate of; empty: clients need none")
}

// check says what is missing, or cannot be read.
func (f *tlsFiles) check() error {
	switch {
	case (f.cert == "") != (f.key == ""):
		return Wrong("tls-cert", "%q: want --tls-cert and --tls-key, or neither", f.cert)
	case f.cert == "" && f.ca != "":
		return Wrong("tls-client-ca", "%q: want --tls-cert too", f.ca)
	}
	if _, err := f.config(); err != nil {
		return Wrong("tls-cert", "%q: %s", f.cert, err)
	}
	return nil
}

// config is nil without a certificate.
func (f *tlsFiles) config() (*tls.Config, error) {
	if f.cert == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if f.ca != "" {
		c.ClientAuth = tls.RequireAndVerifyClientCert
		c.ClientCAs, err = authorities(f.ca)
	}
	return c, err
}

func authorities(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: %w", file, errNoCertificate)
	}
	return pool, nil
}

var errNoCertificate = errors.New("no certificate in PEM")

// ClientTLS is how a service connects to a neighbour that has TLS: whom it
// believes and, where cert is given, what it shows. nil without a CA.
func ClientTLS(ca, cert, key string) (*tls.Config, error) {
	if ca == "" {
		return nil, nil
	}
	pool, err := authorities(ca)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
