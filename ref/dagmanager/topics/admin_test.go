package topics_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"qmtl.internal/plumbline/ref/dagmanager/diff"
	"qmtl.internal/plumbline/ref/dagmanager/topics"
)

// certificate makes a certificate for 127.0.0.1 that signs itself, and files
// with it and its key.
func certificate(t *testing.T) (pair tls.Certificate, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"broker"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if pair, err = tls.LoadX509KeyPair(cert, key); err != nil {
		t.Fatal(err)
	}
	return pair, cert, key
}

// opened is a session as a says.
func opened(t *testing.T, a topics.AdminSession) *topics.Session {
	t.Helper()
	kafka, end, err := a.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	return topics.NewSession(kafka, topics.Options{Replication: 1, Timeout: a.Timeout})
}

func TestSecuredBroker(t *testing.T) {
	pair, cert, _ := certificate(t)
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}}),
		kfake.Superuser("PLAIN", "p", "hush-1"), kfake.Superuser("SCRAM-SHA-256", "s", "hush-2"), kfake.Superuser("SCRAM-SHA-512", "l", "hush-3"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	base := topics.AdminSession{Brokers: cluster.ListenAddrs()[0], TLS: true, CA: cert, Timeout: 2 * time.Second, Retries: 2}
	for mechanism, who := range map[string][2]string{"plain": {"p", "hush-1"}, "scram-sha-256": {"s", "hush-2"}, "scram-sha-512": {"l", "hush-3"}} {
		t.Run(mechanism, func(t *testing.T) {
			a := base
			a.SASL, a.User, a.Password = mechanism, who[0], who[1]
			works(t, opened(t, a), cluster, a)
			a.Password = "guess"
			refused(t, a, nil, "password") // this broker hangs up without a word
		})
	}
	t.Run("certificate of somebody else", func(t *testing.T) {
		_, other, _ := certificate(t)
		a := base
		a.CA, a.SASL, a.User, a.Password = other, "plain", "p", "hush-1"
		refused(t, a, topics.ErrUnavailable, "certificate")
	})
	t.Run("another name", func(t *testing.T) {
		a := base
		a.ServerName, a.SASL, a.User, a.Password = "broker", "plain", "p", "hush-1"
		works(t, opened(t, a), cluster, a)
		a.ServerName = "elsewhere"
		refused(t, a, topics.ErrUnavailable, `not elsewhere`)
	})
	t.Run("without TLS", func(t *testing.T) {
		refused(t, topics.AdminSession{Brokers: base.Brokers, Timeout: 500 * time.Millisecond}, nil, "TLS")
	})
	t.Run("TLS where there is none", func(t *testing.T) {
		plain := newStand(t, topics.Options{})
		refused(t, topics.AdminSession{Brokers: plain.ListenAddrs()[0], TLS: true, CA: cert, Timeout: time.Second}, nil, "TLS")
	})
	t.Run("without SASL", func(t *testing.T) {
		refused(t, base, nil, "SASL")
	})
}

// works makes, lists, measures and deletes a topic.
func works(t *testing.T, s *topics.Session, cluster *kfake.Cluster, a topics.AdminSession) {
	t.Helper()
	if err := s.Ensure(t.Context(), wanted(diff.Raw, "made")); err != nil {
		t.Fatal(err)
	}
	if all, err := s.List(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("%d topics, %v", len(all), err)
	}
	produce(t, a, "made")
	if extents, err := s.Extents(t.Context(), "made", "absent"); err != nil || !cmp.Equal(extents, map[string]topics.Extent{"made": {Held: 1, Written: 1}}) {
		t.Errorf("extents %v, %v", extents, err)
	}
	errs, err := s.Delete(t.Context(), []string{"made", "absent"})
	if err != nil || errs[0] != nil || errs[1] != nil || cluster.TopicInfo("made") != nil {
		t.Errorf("delete: %v, %v", errs, err)
	}
}

func produce(t *testing.T, a topics.AdminSession, topic string) {
	t.Helper()
	opts, err := a.Options()
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte("v")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// refused checks the kind of error, where there is one, that it says what to
// mend, that it comes within the session's own limit, and that no secret is told.
func refused(t *testing.T, a topics.AdminSession, kind error, says string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*a.Timeout)
	defer cancel()
	_, err := opened(t, a).List(ctx)
	if err == nil || kind != nil && !errors.Is(err, kind) || !strings.Contains(err.Error(), says) || ctx.Err() != nil {
		t.Errorf("error %v, want %v that says %s", err, kind, says)
	}
	if err != nil && a.Password != "" && strings.Contains(err.Error(), a.Password) {
		t.Errorf("the password is told: %v", err)
	}
}

func TestMistakesInAnAdminSession(t *testing.T) {
	wrong := topics.AdminSession{Brokers: "a:1, b", SASL: "magic", CA: "x", Cert: "y", Retries: -1}
	var text []string
	for _, err := range wrong.Check("kafka") {
		if err != nil {
			text = append(text, err.Error())
		}
	}
	want := []string{
		`--kafka "b": want HOST:PORT`, `--kafka-sasl "magic": want plain, scram-sha-256, scram-sha-512`,
		`--kafka-sasl "magic" with --kafka-user "": give both or neither`, `--kafka-cert "y" with --kafka-key "": give both or neither`,
		`--kafka-tls false: certificates and their names are for TLS only`, `--kafka-retries -1: want 0 or more`,
	}
	if d := cmp.Diff(want, text); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for what, a := range map[string]topics.AdminSession{
		"no broker is named":     {},
		"no PEM certificate":     {Brokers: "a:1", TLS: true, CA: "admin_test.go"},
		"certificates: open":     {Brokers: "a:1", TLS: true, CA: "absent.pem"},
		"certificate absent.pem": {Brokers: "a:1", TLS: true, Cert: "absent.pem", Key: "absent.pem"},
		`"magic" is not known`:   {Brokers: "a:1", SASL: "magic"},
	} {
		if _, _, err := a.Open(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("error %v, want …%s…", err, what)
		}
	}
}

// A topic that was deleted behind a session's back is made again when it is
// wanted after the time for which the session trusts what it did.
func TestDeletedTopicIsMadeAgain(t *testing.T) {
	s := newStand(t, topics.Options{Trust: time.Nanosecond})
	for range 2 {
		if err := s.Ensure(t.Context(), wanted(diff.Raw, "t")); err != nil {
			t.Fatal(err)
		}
		if s.TopicInfo("t") == nil {
			t.Fatal("the topic is not there")
		}
		if err := s.DeleteTopic("t"); err != nil {
			t.Fatal(err)
		}
	}
}
