package ssh

// The scripts that run on a host, for any POSIX shell. What they need comes in
// their arguments, so that nothing is ever put together to code.

// lookScript prints what bootstrapping has to know. Arguments: the folder of
// the configuration, the agent's data folder, the program, the root.
const lookScript = `set -u
echo "system=$(uname -s)"
echo "machine=$(uname -m)"
echo "user=$(id -u)"
[ ! -e "$1/server" ] || echo "marker=$(head -c 300 "$1/server" | head -n 1)"
[ ! -s "$2/welcome.pb" ] || echo joined=yes
[ ! -x "$3" ] || echo "program=$(sha256sum <"$3" | cut -c 1-64)"
[ ! -d "$4/run/systemd/system" ] || echo systemd=yes
[ ! -S "$4/run/containerd/containerd.sock" ] || echo containerd=yes
[ ! -S "$4/run/docker.sock" ] || echo docker=yes
`

// claimScript writes the marker unless there is one, and prints the one that
// stands then. Arguments: the folder of the configuration, the marker.
const claimScript = `set -eu
(umask 022 && mkdir -p "$1")
umask 077
printf '%s\n' "$2" >"$1/.server.$$"
ln "$1/.server.$$" "$1/server" 2>/dev/null || :
rm -f "$1/.server.$$"
head -c 300 "$1/server"
`

// putScript puts a file in its place, whole or not at all. Arguments: its
// path, its mode, its SHA-256.
const putScript = `set -eu
(umask 022 && mkdir -p "$(dirname "$1")")
umask 077
part="$1.shoal-part"
cat >"$part"
got=$(sha256sum <"$part" | cut -c 1-64)
if [ "$got" != "$3" ]; then
	rm -f "$part"
	echo "what arrived for $1 is not what was sent; is the disk full?" >&2
	exit 91
fi
chmod "$2" "$part"
sync "$part" 2>/dev/null || sync
mv -f "$part" "$1"
`

// stopScript ends an agent that was started without systemd. Arguments: the
// file with its process ID, its program. A process is the agent's only if its
// command line names the program: the ID may be another one's after a boot.
const stopScript = `set -u
mine() { [ -n "$p" ] && tr '\0' '\n' <"/proc/$p/cmdline" 2>/dev/null | grep -qxF "$program"; }
p=$(head -n 1 "$1" 2>/dev/null || :)
program=$2
if mine; then
	kill "$p" 2>/dev/null || :
	n=0
	while mine && [ $n -lt 50 ]; do sleep 0.2; n=$((n + 1)); done
	if mine; then kill -9 "$p" 2>/dev/null || :; fi
fi
rm -f "$1"
`

// startScript starts the agent without systemd. Arguments: the file for its
// process ID, its log, its data folder, then its command.
const startScript = `set -eu
(umask 022 && mkdir -p "$(dirname "$1")" "$(dirname "$2")")
umask 077
mkdir -p "$3"
pid=$1 log=$2 data=$3
shift 3
rm -f "$data/agent.sock"
cd "$data"
setsid "$@" >>"$log" 2>&1 </dev/null &
echo $! >"$pid"
`

// unitScript starts the agent's unit. Arguments: its name, the data folder.
const unitScript = `set -eu
umask 077
mkdir -p "$2"
systemctl daemon-reload
systemctl enable "$1" >/dev/null 2>&1
systemctl stop "$1"
rm -f "$2/agent.sock"
systemctl start "$1"
`

// awaitScript waits until the agent has joined and serves. Arguments: its data
// folder, the file with its process ID or "", its log or its unit.
const awaitScript = `set -u
alive() {
	[ -n "$2" ] || return 0
	kill -0 "$(head -n 1 "$2")" 2>/dev/null
}
said() {
	if [ -n "$2" ]; then tail -n 8 "$3"; else journalctl --no-pager -q -n 8 -u "$3"; fi >&2
}
n=0
while [ $n -lt 150 ]; do
	[ ! -S "$1/agent.sock" ] || exit 0
	if ! alive "$@"; then said "$@"; exit 92; fi
	sleep 0.2
	n=$((n + 1))
done
said "$@"
exit 93
`

// removeScript takes away all but the marker, and then that. Arguments: the
// folder of the configuration, the agent's data folder, its program, the
// unit's file.
const removeScript = `set -eu
if [ -e "$4" ]; then
	systemctl disable --now "$(basename "$4")" >/dev/null 2>&1 || :
	rm -f "$4"
	systemctl daemon-reload >/dev/null 2>&1 || :
fi
rm -f "$3"
rm -rf "$2"
rm -f "$1/dfagent.yaml" "$1/join"
rm -f "$1/server"
rmdir "$1" 2>/dev/null || :
`
