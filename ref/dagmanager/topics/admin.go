package topics

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"qmtl.internal/plumbline/ref/internal/service"
)

// AdminSession says how one talks to a Kafka cluster: where it is, who we are,
// and how much patience we have. The service, the commands and the tests each
// fill one in.
type AdminSession struct {
	Brokers string // HOST:PORT, or several parted by commas; "" means none

	TLS        bool
	CA         string // file with PEM certificates; "": those of the system
	Cert, Key  string // files with our PEM certificate and its key; "": none
	ServerName string // that the broker's certificate must have; "": the host's

	SASL           string // plain, scram-sha-256, scram-sha-512; "": none
	User, Password string // never logged

	Timeout time.Duration // of one call with its retries; 5 s
	Retries int           // how often a request that may pass is repeated; 0: not
	Backoff time.Duration // before a request is repeated; 0: what the client thinks fit
}

// Flags registers the settings of reach and security as --PREFIX-…, with
// "--PREFIX HOST:PORT" for the brokers; of says what is there.
func (a *AdminSession) Flags(fs *service.FlagSet, prefix, of string) {
	fs.StringVar(&a.Brokers, prefix, "", "`HOST:PORT` of "+of)
	fs.BoolVar(&a.TLS, prefix+"-tls", false, "speak TLS with --"+prefix)
	fs.StringVar(&a.CA, prefix+"-ca", "", "`FILE` with the certificates that --"+prefix+" is checked against; empty: those of the system")
	fs.StringVar(&a.Cert, prefix+"-cert", "", "`FILE` with our certificate, where --"+prefix+" wants one")
	fs.StringVar(&a.Key, prefix+"-key", "", "`FILE` with the key of that certificate")
	fs.StringVar(&a.ServerName, prefix+"-server-name", "", "`NAME` that the certificate of --"+prefix+" must have; empty: its host")
	fs.StringVar(&a.SASL, prefix+"-sasl", "", "`mechanism` of SASL: "+strings.Join(mechanismNames(), ", ")+"; empty: none")
	fs.StringVar(&a.User, prefix+"-user", "", "`user` of SASL")
	service.SecretVar(fs, &a.Password, prefix+"-password", "`password` of that user. The environment variable keeps it out of the list of processes")
}

// PatienceFlags registers the settings of time limits and retries.
func (a *AdminSession) PatienceFlags(fs *service.FlagSet, prefix string) {
	fs.DurationVar(&a.Timeout, prefix+"-timeout", 5*time.Second, "how `long` one call to Kafka may take, retries included")
	fs.IntVar(&a.Retries, prefix+"-retries", 4, "how `often` a request to Kafka that may pass is repeated within the time limit")
	fs.DurationVar(&a.Backoff, prefix+"-retry-backoff", 0, "how `long` to wait before a repetition; 0: growing pauses of the client's own")
}

// mechanisms make the SASL mechanism of a user.
var mechanisms = map[string]func(user, password string) sasl.Mechanism{
	"plain":         func(u, p string) sasl.Mechanism { return plain.Auth{User: u, Pass: p}.AsMechanism() },
	"scram-sha-256": func(u, p string) sasl.Mechanism { return scram.Auth{User: u, Pass: p}.AsSha256Mechanism() },
	"scram-sha-512": func(u, p string) sasl.Mechanism { return scram.Auth{User: u, Pass: p}.AsSha512Mechanism() },
}

func mechanismNames() []string {
	names := make([]string, 0, len(mechanisms))
	for name := range mechanisms {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Seeds are the addresses in Brokers.
func (a AdminSession) Seeds() []string {
	return strings.FieldsFunc(a.Brokers, func(r rune) bool { return r == ',' || r == ' ' })
}

// Check gives every mistake in the settings; prefix is that of their flags. It
// opens no file.
func (a AdminSession) Check(prefix string) (errs []error) {
	for _, seed := range a.Seeds() {
		errs = append(errs, service.CheckAddr(prefix, seed))
	}
	if a.SASL != "" && mechanisms[a.SASL] == nil {
		errs = append(errs, service.Wrong(prefix+"-sasl", "%q: want %s", a.SASL, strings.Join(mechanismNames(), ", ")))
	}
	if (a.SASL == "") != (a.User == "") {
		errs = append(errs, service.Wrong(prefix+"-sasl", "%q with --%s-user %q: give both or neither", a.SASL, prefix, a.User))
	}
	if (a.Cert == "") != (a.Key == "") {
		errs = append(errs, service.Wrong(prefix+"-cert", "%q with --%s-key %q: give both or neither", a.Cert, prefix, a.Key))
	}
	if !a.TLS && a.CA+a.Cert+a.Key+a.ServerName != "" {
		errs = append(errs, service.Wrong(prefix+"-tls", "false: certificates and their names are for TLS only"))
	}
	if a.Retries < 0 {
		errs = append(errs, service.Wrong(prefix+"-retries", "%d: want 0 or more", a.Retries))
	}
	return errs
}

// Options are the settings of any client for these brokers. Those of Patience
// are not among them: a producer has other ones.
func (a AdminSession) Options() ([]kgo.Opt, error) {
	opts := []kgo.Opt{kgo.SeedBrokers(a.Seeds()...)}
	if a.TLS {
		config, err := a.tls()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.DialTLSConfig(config))
	}
	if a.SASL == "" {
		return opts, nil
	}
	mechanism := mechanisms[a.SASL]
	if mechanism == nil {
		return nil, fmt.Errorf("SASL mechanism %q is not known; there are %s", a.SASL, strings.Join(mechanismNames(), ", "))
	}
	return append(opts, kgo.SASL(mechanism(a.User, a.Password))), nil
}

func (a AdminSession) tls() (*tls.Config, error) {
	config := &tls.Config{ServerName: a.ServerName, MinVersion: tls.VersionTLS12}
	if a.CA != "" {
		pem, err := os.ReadFile(a.CA)
		if err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificates %s: no PEM certificate in it", a.CA)
		}
	}
	if a.Cert != "" {
		pair, err := tls.LoadX509KeyPair(a.Cert, a.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate %s with key %s: %w", a.Cert, a.Key, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// Patience are the settings of a client that administers: it fails within the
// time limit rather than retrying for long, since the session's breaker and its
// callers decide about going on.
func (a AdminSession) Patience() []kgo.Opt {
	timeout := a.Timeout
	if timeout == 0 {
		timeout = 5 * time.Second
	}
	opts := []kgo.Opt{
		kgo.DialTimeout(min(timeout, 2*time.Second)),
		kgo.RetryTimeout(timeout / 2),
		kgo.RequestRetries(a.Retries),
		kgo.RequestTimeoutOverhead(timeout),
		kgo.MetadataMinAge(10 * time.Millisecond), // else what it said last of a topic is repeated for 5 s
	}
	if a.Backoff > 0 {
		opts = append(opts, kgo.RetryBackoffFn(func(int) time.Duration { return a.Backoff }))
	}
	return opts
}

// Open returns a broker that has not been spoken to yet, and what ends it.
func (a AdminSession) Open() (*Kafka, func(), error) {
	if len(a.Seeds()) == 0 {
		return nil, nil, errors.New("kafka: no broker is named")
	}
	opts, err := a.Options()
	if err != nil {
		return nil, nil, fmt.Errorf("kafka %s: %w", a.Brokers, err)
	}
	client, err := kgo.NewClient(append(opts, a.Patience()...)...)
	if err != nil {
		return nil, nil, fmt.Errorf("kafka %s: %w", a.Brokers, err)
	}
	k := NewKafka(client)
	k.hint = a.hint
	return k, client.Close, nil
}

// hint says what may be set wrongly where the broker says nothing: one that
// refuses a password, or does not speak TLS, often just hangs up or stays silent.
func (a AdminSession) hint(err error) string {
	var dialling *net.OpError
	switch {
	case a.SASL != "" && errors.Is(err, io.EOF):
		return " (it hung up while " + a.SASL + " logged in: check user and password)"
	case a.TLS && errors.As(err, &dialling) && dialling.Timeout():
		return " (it may not speak TLS at this address)"
	default:
		return ""
	}
}
