"""The door to tmux: sessions, windows and panes of runs.

A task's text never reaches tmux: window names are made of `[a-z0-9-]`, everything else is in the run's directory. A pane is
made and tagged in one call, found by its tag, and addressed by its id; ids are those of one life of one server, so they
are kept with the server's pid and start time. Every call names the socket and has a time limit. "No server" is an answer,
`NoServer`; anything else that is not one raises `Unanswered`, which means unknown.

libtmux is not used for these calls: it has no time limits, says `[]` for "cannot reach tmux", and lists all windows of the
session for each new one (docs/decisions/0003).
"""

import os
import re
import stat
import time
from collections.abc import Mapping, Sequence
from shlex import quote

from dispatchctl import processes
from dispatchctl.errors import LaunchError, Unanswered, Unavailable
from dispatchctl.snapshot import Answer, Pane, Server
from dispatchctl.store.protocol import Window
from dispatchctl.task import Run

NO_SERVER = re.compile(
    r"no server running on|error connecting to .*\((No such file or directory|Connection refused)\)"
    r"|server exited|lost server"  # it died, or its last pane was closed, while it was asked
)
WINDOW_FORMAT = "#{session_name}|#{window_id}|#{pane_id}|#{pid}|#{start_time}"
PANE_FORMAT = (
    "#{pid}|#{start_time}|#{@dispatchctl_token}|#{@dispatchctl_database}|#{pane_id}|#{window_id}|#{pane_dead}|#{pane_pid}"
    "|#{@dispatchctl_task}|#{session_name}"
)

ANNOUNCED = "dispatchctl: now tmux"
"""The line after which a starter has done its part; what follows on stderr is tmux's."""
ANNOUNCE = ("/bin/sh", "-c", f'unset INVOCATION_ID; echo "{ANNOUNCED}" >&2; exec "$@"', "sh")

CLIENT_FORMAT = "#{client_control_mode}|#{bell-action}|#{visual-bell}|#{client_tty}|#{client_name}"
PLAIN = re.compile(r"[A-Za-z0-9 ,.:_-]+")
"""Text in which tmux finds nothing to expand, and no end of a command."""


class NoServer(Unavailable):
    """No tmux server listens on the socket."""


class Windows:
    """tmux on one socket. `environment` is what a server that has to be started gets.

    `starter` is a command that runs another one outside the service that this process is part of: `systemd-run --scope` with
    its options, but for the name of the scope. A server is started through it, so that it does not end with the service.
    """

    def __init__(
        self,
        program: str,
        socket: str,
        environment: Mapping[str, str],
        *,
        timeout: float,
        private: bool = False,
        starter: Sequence[str] = (),
    ) -> None:
        self.program = program
        self.socket = socket
        self.timeout = timeout
        self.starter = tuple(starter)
        self._configuration = ("-f", "/dev/null") if private else ()
        hidden = (
            *("GIT_", "DISPATCHCTL_", "CLAUDE", "VIRTUAL_ENV", "TMUX"),
            *(
                "NOTIFY_SOCKET",
                "WATCHDOG_",
                "INVOCATION_ID",
                "JOURNAL_STREAM",
                "SYSTEMD_EXEC_PID",
                "LISTEN_",
                "MAINPID",
            ),
        )
        self.environment = {name: value for name, value in environment.items() if not name.startswith(hidden)}

    def check(self) -> None:
        """Raise `Unavailable` if the socket is somebody else's or cannot be one. No server is fine: one will be started."""
        directory = os.path.dirname(self.socket)
        if len(os.fsencode(self.socket)) > 107:
            raise Unavailable(
                f"the tmux socket path {self.socket} is longer than 107 bytes", "dispatchctl config tmux.socket"
            )
        for path in (self.socket, directory):
            try:
                found = os.stat(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise Unavailable(
                    f"the tmux socket {self.socket} cannot be reached: {error}", f"ls -ld {quote(directory)}"
                ) from error
            if path == self.socket and not stat.S_ISSOCK(found.st_mode):
                raise Unavailable(  # tmux would remove it and put its socket there
                    f"{self.socket} is not a socket, so tmux cannot use it as one", "dispatchctl config tmux.socket"
                )
            if path == self.socket and found.st_uid != os.getuid():
                raise Unavailable(
                    f"the tmux socket {self.socket} belongs to user {found.st_uid}", "dispatchctl config tmux.socket"
                )
            if path == directory and not stat.S_ISDIR(found.st_mode):
                raise Unavailable(f"{directory} is not a directory", "dispatchctl config tmux.socket")

    def open(self, run: Run, name: str, database: str, command: Sequence[str]) -> Window:
        """Start `command` (at least two words, run without a shell) in a new tagged window of the run's session.

        One call makes the window, tags its pane and keeps it when its program ends. Raises `LaunchError` when the window was
        gone before it could be tagged, as it is when the program does not exist.
        """
        self._make_directory()
        birth_name = f"run-{run.token}"
        pane = f"={run.session}:={birth_name}"
        made = ("-d", "-P", "-F", WINDOW_FORMAT, "-n", birth_name)
        tag: list[str] = []
        for option, value in (
            ("@dispatchctl_token", run.token),
            ("@dispatchctl_database", database),
            ("@dispatchctl_task", str(run.task)),
            ("remain-on-exit", "on"),
        ):
            tag += [";", "set-option", "-p", "-t", pane, option, value]
        # The launcher says how it ended; tmux's own line would scroll the last words away. Unknown before tmux 3.3: -q.
        tag += [";", "set-option", "-p", "-q", "-t", pane, "remain-on-exit-format", ""]
        tag += [";", "rename-window", "-t", pane, name]
        program = [_escaped(word) for word in command]
        window = ["new-window", *made, "-t", f"={run.session}:", "--", *program, *tag]
        session = ["new-session", *made, "-s", run.session, "-x", "200", "-y", "50", "--", *program, *tag]
        said = ""
        for attempt in range(6):
            if attempt % 2 == 0:
                finished = self._run(window)
            elif NO_SERVER.search(said):
                finished = self._run_starting(session, f"dispatchctl-tmux-{run.token}-{attempt}.scope")
            else:
                finished = self._run(session)
            said = finished.err.decode("utf-8", "replace")
            if finished.code == 0:
                return self._made(finished.out.decode("utf-8", "replace"))
            if "can't find window" in said or "no such window" in said or "can't find pane" in said:
                raise LaunchError(
                    f"task {run.task} was not started: its window closed at once", f"dispatchctl show {run.task}"
                )
            if "server exited" in said:
                time.sleep(0.05 * (attempt + 1))
            elif not (NO_SERVER.search(said) or "can't find session" in said or "duplicate session" in said):
                raise Unanswered(
                    f"tmux on {self.socket} refused a window: {said.strip()}", f"tmux -S {quote(self.socket)} ls"
                )
        raise Unanswered(
            f"tmux on {self.socket} could not be started: {said.strip()}", f"tmux -S {quote(self.socket)} ls"
        )

    def panes(self) -> list[Pane]:
        """Every tagged pane of the server, once each. Raises `NoServer` or `Unanswered`."""
        return list(self._listing().panes)

    def version(self) -> str:
        """What tmux says of its version; no server is asked."""
        return self._ask("-V").strip().removeprefix("tmux ")

    def look(self) -> Server:
        """The server with its tagged panes; "no server" and "no answer" are answers too."""
        try:
            return self._listing()
        except NoServer:
            return Server(Answer.NO_SERVER)
        except Unavailable as error:
            return Server(Answer.UNKNOWN, said=error.message)

    def _listing(self) -> Server:
        """One request; a window that is linked into several sessions is listed once for each, and counted once."""
        found: dict[str, Pane] = {}
        server = ("", "")
        answer = self._ask("list-panes", "-a", "-F", PANE_FORMAT)
        try:
            for line in answer.splitlines():
                pid, start, token, database, pane_id, window_id, dead, pane_pid, task, session = line.split("|", 9)
                server = (pid, start)
                if token:
                    number = int(task) if task.isdecimal() else None
                    seen = Pane(token, database, pane_id, window_id, session, dead == "1", int(pane_pid), number)
                    found[pane_id] = seen
            return Server(Answer.RUNNING, int(server[0]), int(server[1]), tuple(found.values()))
        except ValueError:
            raise self._unreadable(answer) from None

    def pane_of(self, token: str) -> Pane | None:
        """The pane that carries the token; None if the server says there is none, or if there is no server."""
        try:
            return next((pane for pane in self.panes() if pane.token == token), None)
        except NoServer:
            return None

    def kill(self, token: str) -> None:
        """Close the run's pane, whatever it was renamed or moved to; nothing happens if there is none.

        The last look and the kill are one request to the server, so that no other pane can be hit.
        """
        pane = self.pane_of(token)
        if pane is not None:
            self._guarded(pane.pane_id, token, f"kill-pane -t {pane.pane_id}")

    def paste(self, pane_id: str, token: str, text: str, *, enter: bool) -> bool:
        """Put the text into the pane as one bracketed paste, then press Enter; False if the pane is not the run's any more."""
        buffer = f"dispatchctl-{token}"
        self._ask("load-buffer", "-b", buffer, "-", given=text.encode())
        keys = f" ; send-keys -t {pane_id} Enter" if enter else ""
        pasted = self._guarded(pane_id, token, f"paste-buffer -d -p -r -b {buffer} -t {pane_id}{keys}")
        if not pasted:
            self._ask("delete-buffer", "-b", buffer)
        return pasted

    def announce(self, text: str) -> int:
        """Show the text in every client of the server for as long as its `display-time` says, and ring; how many there were.

        tmux runs `#(command)` in what it displays and reads `%H` as the hour, so text may hold only what means nothing to it:
        raises `ValueError`. tmux itself rings only for a pane's own program: the bell goes straight to the client's terminal,
        unless the user's tmux is to ring for nothing (`bell-action none`) or to show it (`visual-bell on`).
        """
        if not PLAIN.fullmatch(text):
            raise ValueError(text)
        try:
            clients = [line.split("|", 4) for line in self._ask("list-clients", "-F", CLIENT_FORMAT).splitlines()]
        except NoServer:
            return 0
        for control, action, visual, tty, name in clients:
            self._run(("display-message", "-c", name, text))  # one that has gone meanwhile does not mind
            if control == "0" and action != "none" and visual != "on":
                _ring(tty)
        return len(clients)

    def screen(self, pane_id: str) -> str:
        """What the pane shows now."""
        return self._ask("capture-pane", "-p", "-t", pane_id)

    def attach_command(self, pane_id: str, *, inside: bool) -> list[str]:
        """The command that brings the user to the pane, from inside this server or from outside."""
        verb = ["switch-client", "-t", pane_id] if inside else ["attach-session", "-t", pane_id]
        return [self.program, "-S", self.socket, *verb]

    def end_server(self) -> None:
        """End the server and everything in it: only for a server that the caller started for itself."""
        import libtmux  # 76 ms, and only the demo ends a server

        libtmux.Server(socket_path=self.socket).kill()

    def _guarded(self, pane_id: str, token: str, command: str) -> bool:
        """Run the command if the pane still carries the token."""
        test = f"#{{==:#{{@dispatchctl_token}},{token}}}"
        try:
            answer = self._ask(
                "if-shell", "-F", "-t", pane_id, test, f"{command} ; display-message -p yes", "display-message -p no"
            )
        except NoServer:
            return False
        except Unanswered as error:
            if "can't find" in error.message or "no current target" in error.message:
                return False  # it is gone, or was the last one and has just been closed
            raise
        return answer.strip() != "no"

    def _ask(self, *arguments: str, given: bytes | None = None) -> str:
        finished = self._run(arguments, given)
        if finished.code != 0:
            said = finished.err.decode("utf-8", "replace").strip()
            if NO_SERVER.search(said):
                raise NoServer(f"no tmux server is running on {self.socket}", f"tmux -S {quote(self.socket)} ls")
            raise Unanswered(f"tmux on {self.socket} failed: {said}", f"tmux -S {quote(self.socket)} ls")
        return finished.out.decode("utf-8", "replace")

    def _run(self, arguments: Sequence[str], given: bytes | None = None) -> processes.Finished:
        try:
            finished = self._execute(self._argv(arguments), given)
        except (FileNotFoundError, PermissionError) as error:
            raise Unavailable(f"tmux cannot be run: {error}", "dispatchctl config tools.tmux") from error
        return self._answered(finished)

    def _run_starting(self, arguments: Sequence[str], unit: str) -> processes.Finished:
        """The same, by the starter if there is one: whatever server that starts is in a scope of its own, called `unit`.

        If the starter has not come to running tmux when it is over, and nothing of it is left, tmux is run as ever: exactly one
        of the two is. From then on the answer is tmux's own.
        """
        if not self.starter:
            return self._run(arguments)
        try:
            finished = self._execute((*self.starter, f"--unit={unit}", "--", *ANNOUNCE, *self._argv(arguments)))
            said, tmux_ran, after = finished.err.partition(f"{ANNOUNCED}\n".encode())
            if tmux_ran:
                return self._answered(processes.Finished(finished.code, finished.out, after, finished.timed_out))
            last = " ".join(said.decode("utf-8", "replace").split()) or f"exit code {finished.code}"
            why = f"no answer within {self.timeout:g} s" if finished.timed_out else last
        except OSError as error:
            why = str(error)
        import logging  # 5 ms, for a line that is seldom needed

        logging.getLogger(__name__).warning("tmux is started as part of this service, and ends with it: %s", why)
        return self._run(arguments)

    def _argv(self, arguments: Sequence[str]) -> tuple[str, ...]:
        return (self.program, "-u", *self._configuration, "-S", self.socket, *arguments)

    def _execute(self, argv: Sequence[str], given: bytes | None = None) -> processes.Finished:
        return processes.execute(argv, env=self.environment, timeout=self.timeout, given=given, cwd="/")

    def _answered(self, finished: processes.Finished) -> processes.Finished:
        """What tmux has answered. Raises `Unanswered` if it took too long."""
        if finished.timed_out:
            raise Unanswered(
                f"tmux on {self.socket} did not answer within {self.timeout:g} s", f"tmux -S {quote(self.socket)} ls"
            )
        return finished

    def _made(self, answer: str) -> Window:
        """The window that `WINDOW_FORMAT` describes."""
        try:
            session, window_id, pane_id, pid, start = answer.strip().split("|")
            return Window(session, window_id, pane_id, int(pid), int(start))
        except ValueError:
            raise self._unreadable(answer) from None

    def _unreadable(self, answer: str) -> Unanswered:
        shown = " ".join(answer.split())[:80]
        return Unanswered(
            f"tmux on {self.socket} answered what cannot be read: {shown!r}", f"tmux -S {quote(self.socket)} ls"
        )

    def _make_directory(self) -> None:
        """The directory of a socket, private to the user, as tmux itself makes its own."""
        os.makedirs(os.path.dirname(self.socket), mode=0o700, exist_ok=True)


def _escaped(word: str) -> str:
    """A word of a command for tmux: one that ends in `;` would end the command there."""
    return word[:-1] + "\\;" if word.endswith(";") else word


def _ring(tty: str) -> None:
    """Ring a terminal's bell, without waiting for one that takes nothing now and without making it ours."""
    try:
        descriptor = os.open(tty, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if os.isatty(descriptor):
                os.write(descriptor, b"\a")
        finally:
            os.close(descriptor)
    except OSError:
        pass  # it is gone, stopped with Ctrl-S, or another user's
