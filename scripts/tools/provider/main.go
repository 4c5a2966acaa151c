// Command provider is the OpenID Connect provider that the tests log in at.
// The protocol is that of zitadel/oidc, a certified implementation; here are
// only its pages and its people, who stand in a JSON file that may change
// while it runs. It is a module of its own so that nothing of it gets into the
// programs that are shipped.
//
//	provider -users FILE -client ID -secret-file FILE -redirect URL [-tls DIR]
//
// It listens on loopback at a port of the kernel's choice and prints its
// issuer. With -tls it serves https under an authority that it makes, in
// DIR/ca.pem.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/op"
	"golang.org/x/text/language"
)

const (
	headersWithin = 10 * time.Second
	certLife      = 24 * time.Hour
)

func main() {
	var users, client, secretFile, redirects, dir string
	flag.StringVar(&users, "users", "", "JSON file of the people")
	flag.StringVar(&client, "client", "shoal", "ID of the client")
	flag.StringVar(&secretFile, "secret-file", "", "file with the client's secret")
	flag.StringVar(&redirects, "redirect", "", "the client's redirect addresses, with commas between")
	flag.StringVar(&dir, "tls", "", "serve https, and leave ca.pem in this folder")
	flag.Parse()
	if err := run(users, client, secretFile, redirects, dir); err != nil {
		fmt.Fprintln(os.Stderr, "provider:", err)
		os.Exit(1)
	}
}

func run(users, client, secretFile, redirects, dir string) error {
	secret, err := os.ReadFile(secretFile)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	issuer := "http://" + listener.Addr().String()
	if dir != "" {
		issuer = "https://" + listener.Addr().String()
		config, err := serverTLS(dir)
		if err != nil {
			return err
		}
		listener = tls.NewListener(listener, config)
	}
	storage.RegisterClients(storage.WebClient(client, strings.TrimSpace(string(secret)), strings.Split(redirects, ",")...))
	handler, err := newProvider(issuer, people{users})
	if err != nil {
		return err
	}
	fmt.Println(issuer)
	return (&http.Server{Handler: handler, ReadHeaderTimeout: headersWithin}).Serve(listener)
}

// newProvider puts the protocol and the pages together.
func newProvider(issuer string, who people) (http.Handler, error) {
	s := &store{Storage: storage.NewStorage(who), people: who}
	config := &op.Config{
		CodeMethodS256: true, GrantTypeRefreshToken: true, SupportedUILocales: []language.Tag{language.English},
		DeviceAuthorization: op.DeviceAuthorizationConfig{
			Lifetime: 5 * time.Minute, PollInterval: time.Second, UserFormPath: "/device", UserCode: op.UserCodeBase20,
		},
	}
	if _, err := rand.Read(config.CryptoKey[:]); err != nil {
		return nil, err
	}
	options := []op.Option{}
	if strings.HasPrefix(issuer, "http:") {
		options = append(options, op.WithAllowInsecure())
	}
	provider, err := op.NewProvider(config, s, op.StaticIssuer(issuer), options...)
	if err != nil {
		return nil, err
	}
	p := &pages{store: s, callback: op.AuthCallbackURL(provider)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login/username", p.loginPage)
	interceptor := op.NewIssuerInterceptor(provider.IssuerFromRequest)
	mux.HandleFunc("POST /login/username", interceptor.HandlerFunc(p.login))
	mux.HandleFunc("GET /device", p.devicePage)
	mux.HandleFunc("POST /device", p.device)
	mux.Handle("/", provider)
	return mux, nil
}

// serverTLS makes a certificate for loopback that is its own authority.
func serverTLS(dir string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(certLife),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), block, 0o600); err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}, nil
}
