"""Keeps a mosquitto running as our child.

Each start writes the configuration and calls ``before_start``, which writes the security file, a fresh revocation list
and the listener's certificate: what the broker kept itself is never relied on. When the broker dies it is started
again, with growing pauses when it dies at once. When *we* die, however that happens, the kernel ends it (Linux only;
elsewhere a killed cloud leaves its broker behind, and the next start reports the port as taken).

    supervisor = BrokerSupervisor(config, before_start=write_files)
    supervisor.start()       # returns when the broker listens
    supervisor.reload()      # after a new revocation list or listener certificate
    supervisor.stop()
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from signal import SIGHUP, SIGKILL, SIGTERM

import psutil

from aimass.device.files import make_folder, write_atomic
from aimass.errors import ConfigError
from aimass_cloud.broker.config import OPENSSL_CONFIG, BrokerConfig, render
from aimass_cloud.broker.logfile import BoundedLog

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 5.0
HEALTHY_AFTER_S = 30.0
"""A broker that lived this long and then died is started again at once."""
STOP_TIMEOUT_S = 10.0
POLL_S = 0.02
SETTLE_S = 1.0
"""A broker that has its port open for so long and still lives has read everything."""

# Set in a small program between fork and exec, not by preexec_fn: that runs Python in a forked copy of a process with
# threads, where any lock may be held for ever. The second look at the parent closes the gap before prctl.
_DIE_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)


class BrokerSupervisor:
    """Starts, watches, reloads and stops the broker. Its methods may be called from any thread.

    Args:
        config: what the broker is told.
        before_start: writes all files the broker reads but its configuration; called before each start, on the
            supervisor's thread. What it raises ends ``start``; later it is logged and tried again.
        ready_timeout_s: how long a start may take until the port is open.
        log_bytes: size at which the broker's log file is set aside (one old file is kept).
    """

    def __init__(
        self,
        config: BrokerConfig,
        *,
        before_start: Callable[[], None],
        ready_timeout_s: float = 10.0,
        log_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        self.config = config
        self.restarts = 0
        self._before_start = before_start
        self._ready_timeout_s = ready_timeout_s
        self._log = BoundedLog(config.log_file, log_bytes)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._failure: Exception | None = None
        self._last_words = ""
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether the broker listens now."""
        with self._lock:
            return self._ready

    @property
    def pid(self) -> int | None:
        """Process id of the broker, None while there is none."""
        with self._lock:
            return self._process.pid if self._process is not None and self._process.returncode is None else None

    def start(self) -> None:
        """Starts the broker and returns when it listens.

        Raises:
            ConfigError: it cannot start: a file is missing, the port is taken, mosquitto does not like something;
                carries the broker's last words. Nothing is left running.
        """
        if self._thread is not None:
            return
        self._stopping.clear()
        self._wake.clear()
        self._failure, self._last_words = None, ""
        # PR_SET_PDEATHSIG fires when the *thread* that forked ends, so one thread lives as long as the broker does.
        self._thread = threading.Thread(target=self._run, name="broker-supervisor", daemon=True)
        self._thread.start()
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Ends the broker (it saves its state) and returns when it is gone; after ``timeout_s`` it is killed."""
        with self._lock:
            self._stopping.set()
            self._wake.set()
            self._signal(SIGTERM)
        if self._thread is None:
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            with self._lock:
                self._signal(SIGKILL)
            self._thread.join()
        self._thread = None

    def reload(self) -> None:
        """Has the broker read revocation list and listener certificate again; live connections stay.

        Without effect while the broker is down: it reads them when it starts.
        """
        with self._lock:
            if self._ready:
                self._signal(SIGHUP)

    def restart(self) -> None:
        """Ends the broker and returns when a new one listens; needed for another configuration or CA only.

        Raises:
            ConfigError: it does not come back in time; it is still being tried.
        """
        with self._lock:
            self._ready = False
            self._failure, self._last_words = None, ""
            self._wake.set()
            self._signal(SIGTERM)
        self._wait_ready()

    def log_tail(self, lines: int = 20) -> list[str]:
        """The broker's last words, oldest first."""
        return self._log.tail(lines)

    def _wait_ready(self) -> None:
        with self._changed:
            if self._changed.wait_for(lambda: self._ready or self._failure is not None, self._ready_timeout_s):
                if self._failure is None:
                    return
                raise self._failure
        said = self._last_words or "; ".join(self.log_tail(3)) or "it said nothing"
        raise ConfigError(
            f"the broker does not listen on {self.config.bind}:{self.config.port} after {self._ready_timeout_s:g} s: "
            f"{said}",
            hint=f"see {self.config.log_file}; is the port free?",
        )

    def _run(self) -> None:
        pause_s = 0.0
        first = True
        while not self._stopping.is_set():
            if self._wake.wait(pause_s):
                self._wake.clear()
            started_s = time.monotonic()
            try:
                self._prepare()
                self._live()
            except Exception as exc:  # noqa: BLE001 - the loop must go on: a dead broker is worse than a logged error
                log.error("cannot start the broker: %s", exc)  # noqa: TRY400 - the cause is in the message
                if first:
                    self._fail(exc)
                    return
            first = False
            lived_s = time.monotonic() - started_s
            pause_s = 0.0 if lived_s > HEALTHY_AFTER_S else min(MAX_PAUSE_S, max(FIRST_PAUSE_S, pause_s * 2))

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def _prepare(self) -> None:
        make_folder(self.config.folder)
        write_atomic(self.config.config_file, render(self.config).encode(), mode=0o600)
        write_atomic(self.config.openssl_file, OPENSSL_CONFIG.encode(), mode=0o600)
        self._before_start()
        check_files(self.config)

    def _live(self) -> None:
        """One life of the broker: from its start to its end."""
        with self._lock:
            if self._stopping.is_set():
                return
            self._log.clear()
            process = self._process = spawn(self.config)
        reader = threading.Thread(target=self._log.feed, args=(process.stdout,), name="broker-log", daemon=True)
        reader.start()
        self._await_port(process)
        code = process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()
        with self._changed:
            was_ready, self._ready = self._ready, False
            self._changed.notify_all()
        if not self._stopping.is_set():
            self.restarts += was_ready
            self._last_words = "; ".join(self.log_tail(4))
            log.warning("the broker ended with code %s: %s", code, self._last_words)

    def _await_port(self, process: subprocess.Popen[bytes]) -> None:
        # A plain connect would be answered by a broker of an earlier run that is just dying. An open port alone says
        # too little: certificates are read after it was opened. The word is mosquitto's own; without it, time tells.
        settled_s = float("inf")
        while process.poll() is None and time.monotonic() < settled_s:
            if listens(process.pid, self.config.port):
                settled_s = min(settled_s, time.monotonic() + SETTLE_S)
                if any(line.endswith(" running") for line in self._log.tail(5)):
                    break
            time.sleep(POLL_S)
        with self._changed:
            self._ready = process.poll() is None and not self._stopping.is_set()
            self._changed.notify_all()

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


def spawn(config: BrokerConfig) -> subprocess.Popen[bytes]:
    """Starts mosquitto; on Linux it ends with the thread that calls this."""
    command: Sequence[str] = (str(config.mosquitto), "-c", str(config.config_file))
    if sys.platform == "linux":
        command = (sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command)
    # A session of its own: Ctrl-C at the terminal is for us, and we end the broker in order.
    return subprocess.Popen(
        command,
        cwd=config.folder,
        env={**os.environ, "OPENSSL_CONF": str(config.openssl_file)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def listens(pid: int, port: int) -> bool:
    """Whether that process has a listening TCP socket on that port."""
    try:
        sockets = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(s.status == psutil.CONN_LISTEN and s.laddr and s.laddr.port == port for s in sockets)


def check_files(config: BrokerConfig) -> None:
    """Looks whether the broker can read and write what it must.

    A broker that cannot write its security file goes on, says success to every command, and forgets all at restart.

    Raises:
        ConfigError: names the file.
    """
    for path in (config.ca_file, config.server_pem, config.crl_file, config.dynsec_file, config.plugin):
        if not os.access(path, os.R_OK, effective_ids=True):
            raise ConfigError(f"the broker cannot read {path}")
    for path in (config.dynsec_file, config.folder):
        if not os.access(path, os.W_OK, effective_ids=True):
            raise ConfigError(f"the broker cannot write {path}")
    if os.geteuid() == 0 and config.user not in ("", "root") and config.folder.owner() != config.user:
        raise ConfigError(f"the broker will run as {config.user!r}, to whom {config.folder} does not belong")
