package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
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

// authority signs certificates; file holds its own.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, cert: &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	a.key, a.file = a.sign(a.cert, "authority")
	return a
}

// sign writes a certificate and its key, signed by a, or by itself where a has
// no key yet.
func (a *authority) sign(template *x509.Certificate, name string) (key *ecdsa.PrivateKey, file string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	by := a.key
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	file = filepath.Join(a.t.TempDir(), name+".pem")
	for path, block := range map[string]*pem.Block{file: {Type: "CERTIFICATE", Bytes: der}, file + ".key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return key, file
}

// of gives the file of a certificate for a service on this machine; its key is
// beside it, with .key behind the name.
func (a *authority) of(name string) string {
	_, file := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, name)
	return file
}

// secured is a DAG Manager with TLS that knows clients of the authority, and the
// same for a Gateway in front of it.
type secured struct {
	servers
	authority *authority
	manager   *process
}

func newSecured(t *testing.T) secured {
	t.Helper()
	s := secured{servers: newServers(t), authority: newAuthority(t)}
	cert := s.authority.of("dagmanager")
	s.manager = s.dagManager(t, "--tls-cert", cert, "--tls-key", cert+".key", "--tls-client-ca", s.authority.file)
	return s
}

// asked is what a Gateway with these flags answers over https to a submission,
// and what /health says of the DAG Manager.
func (s secured) asked(t *testing.T, flags ...string) (p *process, sentinel, health string) {
	t.Helper()
	own := s.authority.of("gateway")
	p = s.gateway(t, s.manager.ready.Addresses["grpc"], append([]string{"--tls-cert", own, "--tls-key", own + ".key"}, flags...)...)
	trusted, err := service.ClientTLS(s.authority.file, "", "")
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trusted, DisableKeepAlives: true}, Timeout: 30 * time.Second}
	url := "https://" + p.ready.Addresses["http"]
	resp, err := client.Post(url+"/strategies/dry-run", "application/json", bytes.NewReader(submission(t, "a")))
	if err != nil {
		t.Fatal(err)
	}
	text := read(t, resp)
	var ack struct {
		Sentinel string `json:"sentinel_id"`
	}
	if err := json.Unmarshal([]byte(text), &ack); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("answer %d %s (%v)", resp.StatusCode, text, err)
	}
	if resp, err = client.Get(url + "/health"); err != nil {
		t.Fatal(err)
	}
	return p, ack.Sentinel, read(t, resp)
}

func read(t *testing.T, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestServicesKnowEachOtherByCertificate(t *testing.T) {
	s := newSecured(t)
	own := s.authority.of("client")
	_, sentinel, health := s.asked(t, "--dagmanager-ca", s.authority.file, "--dagmanager-cert", own, "--dagmanager-key", own+".key")
	if sentinel != "dryrun-sentinel" || !strings.Contains(health, `"dagmanager":"ok"`) {
		t.Errorf("sentinel %q, health %s", sentinel, health)
	}
}

// A connection that cannot be trusted is no connection; the log of who does not
// trust says why, and submissions go on as without a DAG Manager.
func TestStrangersAreToldApart(t *testing.T) {
	other := newAuthority(t)
	s := newSecured(t)
	client := func(by *authority) []string {
		file := by.of("client")
		return []string{"--dagmanager-cert", file, "--dagmanager-key", file + ".key"}
	}
	for name, c := range map[string]struct {
		flags []string
		whose string
		says  string
	}{
		"an authority that did not sign": {append(client(s.authority), "--dagmanager-ca", other.file), "gateway", "certificate signed by unknown authority"},
		"no certificate of its own":      {[]string{"--dagmanager-ca", s.authority.file}, "dagmanager", "client didn't provide a certificate"},
		"a certificate of a stranger":    {append(client(other), "--dagmanager-ca", s.authority.file), "dagmanager", "certificate signed by unknown authority"},
		"no TLS at all":                  {nil, "gateway", "error reading server preface"},
	} {
		t.Run(name, func(t *testing.T) {
			time.Sleep(time.Second) // the log says one a second
			p, sentinel, health := s.asked(t, c.flags...)
			if sentinel == "dryrun-sentinel" || !strings.Contains(health, `"dagmanager":"error"`) {
				t.Errorf("sentinel %q, health %s", sentinel, health)
			}
			if c.whose == "dagmanager" {
				p = s.manager
			}
			wait(t, "the log of the "+c.whose+" says: "+c.says, func() bool { return strings.Contains(p.log.String(), c.says) })
		})
	}
}

func TestFilesOfAuthoritiesAreReadAtTheStart(t *testing.T) {
	s := newServers(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, ca := range []string{file, file + ".none"} {
		out, code := fails(t, "gateway", "--redis", s.redis.Addr(), "--dagmanager-ca", ca)
		if code != service.ExitFail && code != service.ExitUsage || strings.Count(out, "\n") != 1 || !strings.Contains(out, ca) {
			t.Errorf("exit code %d: %s", code, out)
		}
	}
}
