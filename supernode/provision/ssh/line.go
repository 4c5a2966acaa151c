package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/shoalproject/shoal/supernode/provision"
)

const (
	// reachWithin bounds the connection and the login.
	reachWithin = 20 * time.Second
	// answerWithin bounds one command, and sendWithin one that takes a file.
	answerWithin = 2 * time.Minute
	sendWithin   = 10 * time.Minute
	// maxOutput is how much of what a command prints is kept.
	maxOutput = 16 << 10
	// maxSaid is how much of it stands in an error.
	maxSaid = 600
)

// errOtherKey is wrapped when a host shows another key than it must.
var errOtherKey = errors.New("the host shows another key")

// target is whom to speak to.
type target struct {
	address string // host:port
	user    string
	key     HostKey
}

// line is an open connection to a host.
type line struct {
	client *gossh.Client
	sudo   bool
	stop   func() bool
}

// connect logs in on a host that shows the right key. The connection ends with
// the context, or by close.
func (p *Provider) connect(ctx context.Context, to target) (*line, error) {
	var shown []string
	for _, family := range to.key.families {
		l, err := p.connectBy(ctx, to, family)
		var none *gossh.AlgorithmNegotiationError
		switch {
		case err == nil:
			return l, nil
		case errors.Is(err, errOtherKey):
			shown = append(shown, err.Error())
		case errors.As(err, &none):
			// It has no key of this family.
		default:
			return nil, fmt.Errorf("reach %s@%s: %w", to.user, to.address, err)
		}
	}
	if len(shown) == 0 {
		return nil, fmt.Errorf("%w: %s has no host key of the kind that is expected (%s)", provision.ErrRefused, to.address, to.key)
	}
	return nil, fmt.Errorf("%w: nothing was sent to %s, it is not the host that was adopted (%s): %s; if it was installed anew, compare its key on its console and adopt it again",
		provision.ErrRefused, to.address, to.key, strings.Join(shown, "; "))
}

func (p *Provider) connectBy(ctx context.Context, to target, algorithms []string) (*line, error) {
	reach, cancel := context.WithTimeout(ctx, reachWithin)
	defer cancel()
	conn, err := p.cfg.Dial(reach, "tcp", to.address)
	if err != nil {
		return nil, err
	}
	early := context.AfterFunc(reach, func() { conn.Close() })
	var other error
	c, channels, requests, err := gossh.NewClientConn(conn, to.address, &gossh.ClientConfig{
		User: to.user, Auth: []gossh.AuthMethod{gossh.PublicKeys(p.cfg.Key)}, HostKeyAlgorithms: algorithms,
		HostKeyCallback: func(_ string, _ net.Addr, shown gossh.PublicKey) error {
			if !to.key.fits(shown) {
				other = fmt.Errorf("%w, %s %s", errOtherKey, shown.Type(), gossh.FingerprintSHA256(shown))
			}
			return other
		},
	})
	if !early() && err == nil {
		c.Close()
		err = context.Cause(reach)
	}
	if err != nil {
		conn.Close()
		switch {
		case other != nil:
			return nil, other
		case reach.Err() != nil:
			return nil, fmt.Errorf("no login within %v: %w", reachWithin, context.Cause(reach))
		case strings.Contains(err.Error(), "unable to authenticate"):
			return nil, fmt.Errorf("%w; put the supernode's key, which 'supernode ssh-key' prints, into the user's authorized_keys", err)
		}
		return nil, err
	}
	l := &line{client: gossh.NewClient(c, channels, requests), sudo: to.user != "root"}
	l.stop = context.AfterFunc(ctx, func() { l.client.Close() })
	return l, nil
}

func (l *line) close() {
	l.stop()
	l.client.Close()
}

// local is the address by which the host sees us.
func (l *line) local() net.IP {
	if a, ok := l.client.LocalAddr().(*net.TCPAddr); ok {
		return a.IP
	}
	return nil
}

// tell runs a script of ours on the host, as root, and returns what it
// printed. What the host says is not to be trusted in any way.
func (l *line) tell(ctx context.Context, script string, args ...string) (string, error) {
	return l.run(ctx, answerWithin, strings.NewReader(""), script, args)
}

// send is tell with a file for the script to read.
func (l *line) send(ctx context.Context, content io.Reader, script string, args ...string) error {
	_, err := l.run(ctx, sendWithin, content, script, args)
	return err
}

func (l *line) run(ctx context.Context, within time.Duration, stdin io.Reader, script string, args []string) (string, error) {
	late := time.AfterFunc(within, func() { l.client.Close() })
	defer late.Stop()
	session, err := l.client.NewSession()
	if err != nil {
		return "", l.why(ctx, "open a session on the host", err)
	}
	defer session.Close()
	out, said := &bounded{limit: maxOutput}, &bounded{limit: maxOutput}
	session.Stdin, session.Stdout, session.Stderr = stdin, out, said
	err = session.Run(l.command(script, args))
	var exit *gossh.ExitError
	switch {
	case err == nil:
		return out.String(), nil
	case errors.As(err, &exit):
		return "", &saidError{status: exit.ExitStatus(), text: printable(said.String())}
	case !late.Stop():
		return "", fmt.Errorf("run a command on the host: it did not end within %v", within)
	}
	return "", l.why(ctx, "run a command on the host", err)
}

func (l *line) why(ctx context.Context, what string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (l *line) command(script string, args []string) string {
	var b strings.Builder
	if l.sudo {
		b.WriteString("sudo -n ")
	}
	b.WriteString("sh -c " + quoted(script) + " shoal")
	for _, arg := range args {
		b.WriteString(" " + quoted(arg))
	}
	return b.String()
}

// quoted is one word for every shell that a user may have.
func quoted(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// saidError is a script that ended with a status of its own.
type saidError struct {
	status int
	text   string
}

func (e *saidError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("the host's shell ended with status %d", e.status)
	}
	return fmt.Sprintf("the host says (status %d): %s", e.status, e.text)
}

// printable is the end of what a host said, in one line, without what would
// move a terminal's cursor.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxSaid {
		s = "… " + strings.ToValidUTF8(s[len(s)-maxSaid:], "")
	}
	return s
}

// bounded keeps the first bytes and drops the rest.
type bounded struct {
	bytes.Buffer
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), max(0, b.limit-b.Len()))])
	return len(p), nil
}
