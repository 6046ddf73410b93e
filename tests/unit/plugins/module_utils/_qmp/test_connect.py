# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connecting: greeting and negotiation within one deadline, and what else may answer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.holder import is_heard
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.session import QMPSession
from support.fakeqmp import GREETING, FakeQMP, Peer, pair, polite
from support.timing import no_hang


def test_polite() -> None:
    with FakeQMP() as fake, QMPSession.connect(fake.address) as session:
        assert session.version == (9, 1, 2)
        assert (session.version.major, session.version.package) == (9, "fake")
        assert session.capabilities == ["oob"]
        assert session.oob
        assert session.peer == fake.address
        assert session.execute("stop") == {}
        assert not session.closed
        assert fake.peers[0].received[0]["arguments"] == {"enable": ["oob"]}
    assert session.closed


def test_tcp() -> None:
    with FakeQMP(tcp=True) as fake:
        for address in (fake.address, "tcp:" + fake.address):
            with QMPSession.connect(address) as session:
                assert session.execute("stop") == {}


def test_oob_only_where_offered_and_wanted() -> None:
    with FakeQMP(lambda peer: (peer.negotiate(capabilities=[]), peer.serve()), polite) as fake:
        with QMPSession.connect(fake.address) as session, pytest.raises(errors.QMPError, match="out-of-band"):
            session.execute("yank", oob=True)
        with QMPSession.connect(fake.address, oob=False) as session:
            assert not session.oob
        assert [[c["execute"] for c in peer.received] for peer in fake.peers] == [["qmp_capabilities"]] * 2
        assert all("arguments" not in peer.received[0] for peer in fake.peers)


def test_noise_before_the_greeting_and_in_negotiation() -> None:
    def script(peer: Peer) -> None:
        peer.event("RESUME")
        peer.send({"return": {"stale": 1}, "id": "libvirt-9"}, {"error": {"class": "GenericError", "desc": "stale"}})
        peer.send(GREETING)
        command = peer.command()
        peer.event("STOP")
        peer.send({"return": {}, "id": "libvirt-10"})
        peer.reply(command)
        peer.serve(query_status={"running": True})

    with FakeQMP(script) as fake, QMPSession.connect(fake.address) as session:
        assert session.execute("query-status") == {"running": True}
        assert [event.name for event in session.events] == ["RESUME", "STOP"]


def test_eof_and_reset_before_the_greeting_are_retried() -> None:
    def reset(peer: Peer) -> None:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    for tcp in (False, True):
        with FakeQMP(lambda peer: None, reset, lambda peer: peer.event("STOP"), polite, tcp=tcp) as fake:
            with QMPSession.connect(fake.address) as session:
                session.execute("stop")
            assert len(fake.peers) == 4


def test_retries_are_few_and_end() -> None:
    with FakeQMP(lambda peer: None) as fake:
        with pytest.raises(errors.ConnectError, match="closed the connection") as caught:
            QMPSession.connect(fake.address, timeout=0.9)
        assert not isinstance(caught.value, errors.MonitorBusy)
        assert 2 <= len(fake.peers) <= 91


@pytest.mark.parametrize("timeout", [0.9, 1.5])
def test_silence_after_an_end_is_a_busy_monitor_once_it_lasts(timeout: float) -> None:
    done = threading.Event()
    with FakeQMP(lambda peer: None, silent_until(done)) as fake:
        with pytest.raises(errors.ConnectError) as caught:
            QMPSession.connect(fake.address, timeout=timeout)
        busy = isinstance(caught.value, errors.MonitorBusy)
        assert (busy, "closed the connection" in str(caught.value)) == (timeout > 1.0, timeout < 1.0)
        done.set()


def silent_until(event: threading.Event) -> Any:
    return lambda peer: event.wait(80)


@pytest.mark.parametrize("tcp", [False, True])
def test_busy(tcp: bool) -> None:
    done = threading.Event()
    with FakeQMP(silent_until(done), tcp=tcp) as fake:
        with no_hang(0.2), pytest.raises(errors.MonitorBusy, match="another client"):
            QMPSession.connect(fake.address, timeout=0.2)
        done.set()


def test_a_socket_is_heard_when_somebody_listens_not_when_its_file_is_there(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    assert not is_heard(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        os.utime(path, (time.time() + 60,) * 2)  # however long this takes, it is new
        assert not is_heard(path)
        server.listen()
        assert is_heard(path)
        os.unlink(path)
        assert not is_heard(path)


def test_a_socket_of_another_network_namespace_is_heard_when_its_file_is_old(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)  # the table of this one does not say that it listens
        os.utime(path, (time.time() - 2,) * 2)
        assert is_heard(path)


@pytest.mark.parametrize("tcp", [False, True])
def test_busy_names_the_holder(tcp: bool) -> None:
    done = threading.Event()
    with FakeQMP(silent_until(done), tcp=tcp) as fake:
        path = fake.address[5:]
        where = f"('127.0.0.1', {fake.address[10:]})" if tcp else repr(path)
        family = "INET" if tcp else "UNIX"
        code = f"import socket,sys; s=socket.socket(socket.AF_{family}); s.connect({where}); print(1, flush=True); sys.stdin.read()"
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            with pytest.raises(errors.MonitorBusy) as caught:
                QMPSession.connect(fake.address, timeout=0.2)
            assert holder.stdin is not None
            holder.stdin.close()
        assert caught.value.holder is not None
        assert caught.value.holder[0] == holder.pid
        assert f"process {holder.pid}" in str(caught.value)
        done.set()


def test_full_backlog_is_retried() -> None:
    done = threading.Event()
    with FakeQMP(silent_until(done), polite, backlog=0) as fake:
        fillers = []
        while True:
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            fillers.append(sock)
            try:
                sock.connect(fake.address[5:])
            except BlockingIOError:
                if len(fake.peers) == 1:
                    break
        with pytest.raises(errors.MonitorBusy):
            QMPSession.connect(fake.address, timeout=0.2)
        threading.Timer(0.2, lambda: (done.set(), [sock.close() for sock in fillers])).start()
        with QMPSession.connect(fake.address, timeout=10) as session:
            session.execute("stop")


def test_the_deadline_covers_the_negotiation() -> None:
    done = threading.Event()
    with FakeQMP(lambda peer: (peer.send(GREETING), peer.command(), done.wait(80))) as fake:
        with no_hang(0.2), pytest.raises(errors.NegotiationError, match="qmp_capabilities"):
            QMPSession.connect(fake.address, timeout=60, deadline=Deadline(0.2))
        done.set()


def test_negotiation_refused() -> None:
    def script(peer: Peer) -> None:
        peer.send(GREETING)
        peer.error(peer.command(), desc="not today")

    with FakeQMP(script) as fake:  # noqa: SIM117
        with pytest.raises(errors.NegotiationError, match="not today"):
            QMPSession.connect(fake.address, timeout=5)


@pytest.mark.parametrize(
    "data",
    [
        b"QEMU 7.2.22 monitor - type 'help'\r\n(qemu) ",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.0 400 Bad\r\n\r\n",
        b"[]\r\n",
        b"\x00\x01",
    ],
)
def test_not_qmp(data: bytes) -> None:
    done = threading.Event()
    with FakeQMP(lambda peer: (peer.raw(data), done.wait(80))) as fake:
        with no_hang(0.0), pytest.raises(errors.NegotiationError) as caught:
            QMPSession.connect(fake.address, timeout=60)
        assert isinstance(caught.value, (errors.ProtocolError, errors.ConnectError))
        assert repr(data[:8].decode())[1:8] in str(caught.value)
        done.set()


@pytest.mark.parametrize(
    "greeting", [{}, None, {"version": 5}, {"version": {"qemu": {}}}, {"version": {"qemu": {"major": "x"}}}]
)
def test_odd_greeting(greeting: Any) -> None:
    with FakeQMP(lambda peer: (peer.send({"QMP": greeting}), peer.closed())) as fake:  # noqa: SIM117
        with pytest.raises(errors.NegotiationError, match="greeting"):
            QMPSession.connect(fake.address, timeout=5)


def test_messages_but_no_greeting() -> None:
    done = threading.Event()
    with FakeQMP(lambda peer: (peer.send({"hello": 1}), done.wait(80))) as fake:
        with pytest.raises(errors.NegotiationError, match="no greeting"):
            QMPSession.connect(fake.address, timeout=0.2)
        done.set()


def test_cancel() -> None:
    done = threading.Event()
    with FakeQMP(silent_until(done)) as fake:
        deadline = Deadline(60)
        threading.Timer(0.1, deadline.cancel).start()
        with no_hang(0.1), pytest.raises(errors.Cancelled):
            QMPSession.connect(fake.address, deadline=deadline)
        with no_hang(0.0), pytest.raises(errors.Cancelled):
            QMPSession.connect(fake.address, deadline=deadline)
        done.set()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "nonsense",
        "unix:",
        "unix:@",
        "host:",
        ":4444",
        "host:0",
        "host:70000",
        "::1:44",
        None,
        5,
        b"/x",
        "unix:/a\0b",
    ],
)
def test_bad_address(address: Any) -> None:
    with pytest.raises(errors.ConnectError):
        QMPSession.connect(address, timeout=1)


def test_nobody_there(tmp_path: Any) -> None:
    with pytest.raises(errors.ConnectError, match="running"):
        QMPSession.connect(f"unix:{tmp_path}/none", timeout=5)
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.ConnectError):
        QMPSession.connect(tmp_path / "file", timeout=5)
    with pytest.raises(errors.ConnectError):
        QMPSession.connect("127.0.0.1:1", timeout=5)
    with pytest.raises(errors.ConnectError, match="TLS"):
        QMPSession.connect("unix:/x", tls={"ca_path": "x"}, timeout=5)


def test_abstract_and_long_paths(tmp_path: Any) -> None:
    long = tmp_path / ("d" * 90)
    long.mkdir()
    name = f"vmm-qemu-test-{os.getpid()}"
    with FakeQMP() as fake:
        os.symlink(fake.address[5:], long / "monitor")
        with QMPSession.connect(f"unix:{long}/monitor") as session:
            session.execute("stop")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0" + name)
    listener.listen(1)
    thread = threading.Thread(target=lambda: polite(Peer(listener.accept()[0])), daemon=True)
    thread.start()
    with QMPSession.connect("unix:@" + name) as session:
        session.execute("stop")
    listener.close()


def test_from_socket_owns_only_after_success() -> None:
    ours, _thread = pair(polite)
    session = QMPSession.from_socket(ours, timeout=5)
    session.execute("stop")
    session.close()
    assert ours.fileno() == -1

    for script in (
        lambda peer: None,
        lambda peer: peer.raw(b"rubbish\n"),
        lambda peer: (peer.send(GREETING), peer.command()),
    ):
        ours, _thread = pair(script)
        ours.settimeout(7)
        with pytest.raises(errors.ConnectError):
            QMPSession.from_socket(ours, timeout=5)
        assert ours.fileno() >= 0
        assert ours.gettimeout() == 7
        ours.close()


def test_tls(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ssl

    plain = ssl.create_default_context

    def strict(*args: Any, **options: Any) -> ssl.SSLContext:  # as Python 3.13 makes them
        context = plain(*args, **options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    openssl(
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-subj",
        "/CN=ca",
        "-days",
        "2",
    )
    for name in ("server", "client"):
        openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-keyout", name + ".key", "-out", name + ".csr", "-subj", "/CN=vm"
        )
        (tmp_path / "ext").write_text("subjectAltName=DNS:vm.example\n")
        sign = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext")
        openssl("x509", "-req", "-in", name + ".csr", *sign, "-out", name + ".pem", "-days", "2")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_verify_locations(tmp_path / "ca.pem")
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED

    class TLSPeer(Peer):
        def command(self) -> dict[str, Any]:
            while b"\n" not in self._buffer:
                data = self.sock.recv(65536)
                if not data:
                    raise EOFError
                self._buffer += data
            import json

            line, self._buffer = self._buffer.split(b"\n", 1)
            self.received.append(json.loads(line))
            return self.received[-1]

    def secure(peer: Peer) -> None:
        try:
            peer.sock = context.wrap_socket(peer.sock, server_side=True)
        except OSError:
            return
        inner = TLSPeer(peer.sock)
        inner.negotiate()
        inner.serve(big="x" * 3_000_000)

    tls = {
        name + "_path": str(tmp_path / file)
        for name, file in (("ca", "ca.pem"), ("cert", "client.pem"), ("key", "client.key"))
    }
    monkeypatch.setattr(ssl, "create_default_context", strict)
    with FakeQMP(secure, tcp=True) as fake:
        with QMPSession.connect(fake.address, tls={**tls, "server_name": "vm.example"}) as session:
            assert session.execute("big") == "x" * 3_000_000
            assert session.execute("stop") == {}
            with pytest.raises(errors.InvalidCommand, match="UNIX"):
                session.execute("getfd", {"fdname": "x"}, fds=[0])
        for wrong in (
            {**tls, "server_name": "other.example"},
            {"ca_path": tls["ca_path"], "server_name": "vm.example"},
            {"oops": 1},
        ):
            with no_hang(0.0), pytest.raises(errors.ConnectError):
                QMPSession.connect(fake.address, tls=wrong, timeout=60)
