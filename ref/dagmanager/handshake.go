package dagmanager

import (
	"crypto/tls"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"qmtl.internal/plumbline/ref/internal/service"
)

// transport is plain without a configuration. With one, the log says which
// client is not believed and why: TLS 1.3 lets the client learn it too late, if
// at all.
func transport(c *tls.Config, log *slog.Logger) credentials.TransportCredentials {
	if c == nil {
		return insecure.NewCredentials()
	}
	return handshakes{credentials.NewTLS(c), log, &service.Throttle{}}
}

type handshakes struct {
	credentials.TransportCredentials
	log   *slog.Logger
	often *service.Throttle
}

// ServerHandshake implements credentials.TransportCredentials.
func (h handshakes) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := h.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		if unsaid, ok := h.often.Pass(time.Now()); ok {
			h.log.Warn("client refused", "client", raw.RemoteAddr().String(), "error", err, "more_unsaid", unsaid)
		}
	}
	return conn, info, err
}

// Clone implements credentials.TransportCredentials.
func (h handshakes) Clone() credentials.TransportCredentials {
	return handshakes{h.TransportCredentials.Clone(), h.log, h.often}
}
