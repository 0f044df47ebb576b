package service_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qmtl.internal/plumbline/ref/internal/service"
)

// identity writes a certificate that vouches for itself, and its key.
func identity(t *testing.T, name string) (cert, key string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(file, kind string, der []byte) string {
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", secret)
}

// ask gives the body of an https answer, or why there is none.
func ask(addr string, c *tls.Config) (string, error) {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Get("https://" + addr)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestTLSWantsClientsItsAuthorityKnows(t *testing.T) {
	cert, key := identity(t, "service")
	clientCert, clientKey := identity(t, "client")
	r := start(t, service.Spec{Name: "greeter", Start: hello}, nil, "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", clientCert)
	ready := r.ready(t)
	known, err := service.ClientTLS(cert, clientCert, clientKey)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(ready.Addresses["http"], known); got != "hello" {
		t.Errorf("a known client got %q (%v)", got, err)
	}
	nobody, err := service.ClientTLS(cert, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(ready.Addresses["http"], nobody); err == nil {
		t.Errorf("a client without a certificate got %q", got)
	}
	if got := get(t, "http://"+ready.Addresses["admin"]+"/metrics"); !strings.Contains(got, "go_goroutines") {
		t.Error("the admin address is not plain")
	}
	r.stop()
	<-r.code
}

func TestTLSMistakesAreToldBeforeTheStart(t *testing.T) {
	cert, key := identity(t, "service")
	for want, args := range map[string][]string{
		"or neither":     {"--tls-cert", cert},
		"--tls-cert too": {"--tls-client-ca", cert},
		"no certificate": {"--tls-cert", cert, "--tls-key", key, "--tls-client-ca", key},
		"no such file":   {"--tls-cert", cert + "x", "--tls-key", key},
		"failed to find": {"--tls-cert", key, "--tls-key", key},
	} {
		r := start(t, service.Spec{Name: "greeter", Start: hello}, nil, args...)
		if code := <-r.code; code != service.ExitUsage || !strings.Contains(r.err.String(), want) {
			t.Errorf("%v: exit code %d: %s", args, code, r.err.String())
		}
	}
}

// A client that sends its request byte by byte, or nothing at all, is cut off;
// the others are served meanwhile.
func TestIdleAndSlowClientsHoldUpNobody(t *testing.T) {
	r := start(t, service.Spec{Name: "greeter", Start: func(_ context.Context, rt *service.Runtime) error {
		return rt.ServeHTTP("http", "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "hello")
		}))
	}}, nil)
	addr := r.ready(t).Addresses["http"]
	const n = 500
	var slow [n]net.Conn
	for i := range slow {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\nX-")
		slow[i] = conn
	}
	if got := get(t, "http://"+addr); got != "hello" {
		t.Errorf("beside %d slow clients: %q", n, got)
	}
	for _, conn := range slow {
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Fatalf("a slow client was not cut off: %v", err)
		}
	}
	r.stop()
	<-r.code
}
