# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Bytes and JSON: the encoder, the incremental parser and the transport.

A Python signal handler may raise between any two steps of the interpreter. Nothing here may be half done then:
bytes that the system took or gave are recorded by the same C call that moved them (``list.extend(map(...))``),
and a parser step takes effect by one assignment.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import json
import os
import socket
from collections import deque

from . import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Deque, Dict, List, Sequence, Tuple, Union

    Item = Union[Dict[str, Any], errors.ProtocolError, None, Any]
    # chunks, chunks scanned, bytes scanned, depth, inside a string (2: and the next byte is escaped), parsed items
    State = Tuple[List[bytes], int, int, int, int, Deque[Item]]

CHUNK = 65536

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_raw_decode = json.JSONDecoder().raw_decode


def encode_command(name: str, arguments: Any, command_id: str, oob: bool = False) -> bytes:
    """Return the bytes of one command. Short on purpose: QEMU reads its monitor at some 4 microseconds a byte.

    Raise `errors.InvalidCommand` for what JSON can't say (NaN, bytes, objects, lone surrogates).
    """
    if not isinstance(name, str) or not name:
        raise errors.InvalidCommand(f"a command's name is a non-empty string, not {name!r}")
    if arguments is not None and not isinstance(arguments, dict):
        raise errors.InvalidCommand(f"{name}: arguments are a dictionary, not {type(arguments).__name__}")
    try:
        text = f'{{"{"exec-oob" if oob else "execute"}":{_encode(name)}'
        if arguments:
            text += f',"arguments":{_encode(arguments)}'
            _check_keys(name, arguments)
        return f'{text},"id":"{command_id}"}}\n'.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.InvalidCommand(f"{name}: its arguments are not JSON: {error}") from None


def _check_keys(name: str, arguments: Any) -> None:
    # The standard encoder turns other keys into strings without a word. It has refused what contains itself.
    todo = [arguments]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise errors.InvalidCommand(f"{name}: {key!r} is not a valid JSON member name: use a string")
            todo.extend(value.values())
        elif isinstance(value, (list, tuple)):
            todo.extend(value)


def describe(data: bytes) -> str:
    """Return what the first bytes of a peer that does not speak QMP look like, for messages."""
    seen = repr(data[:60].decode("utf-8", "replace"))
    text = data.lstrip()
    for start, what in (
        (b"QEMU ", "a human monitor (HMP); QMP needs -qmp or -mon mode=control"),
        (b"(qemu)", "a human monitor (HMP); QMP needs -qmp or -mon mode=control"),
        (b"HTTP/", "an HTTP server"),
        (b"SSH-", "an SSH server"),
        (b"RFB ", "a VNC server"),
        (b"\x15\x03", "a TLS server: pass the TLS options"),
        (b"\x16\x03", "a TLS server: pass the TLS options"),
    ):
        if text.startswith(start):
            return f"{seen}, this is {what}"
    return f"{seen}, this is not QMP"


def _decode_all(text: str) -> deque[Item]:
    """Return all JSON objects of ``text``; ValueError if it is anything but whole objects."""
    found: deque[Item] = deque()
    pos, end = 0, len(text)
    while pos < end:
        if text[pos] in " \t\r\n":
            pos += 1
        elif text[pos] == "{":
            value, pos = _raw_decode(text, pos)
            found.append(value)
        else:
            raise ValueError("not an object")
    return found


def _scan() -> Any:
    from . import scan

    return scan


class Reader:
    """Bytes in, JSON objects out, in linear time and memory however the bytes are cut (``pretty=on`` included).

    Items are objects (dict); `errors.ProtocolError` for what is not QMP; None for the end of the stream.
    """

    __slots__ = ("_state", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._state: State = ([], 0, 0, 0, 0, deque())

    @property
    def items(self) -> deque[Item]:
        """What is parsed and not yet taken; the taker uses ``popleft``, after it is done with ``[0]``."""
        return self._state[5]

    @property
    def inbox(self) -> list[bytes]:
        """Where the transport puts the chunks it received; an empty one is the end of the stream."""
        return self._state[0]

    def parse(self) -> None:
        """Turn the received chunks into `items`."""
        while self._state[1] < len(self._state[0]):
            self._step()

    def _step(self) -> None:
        """One chunk. Everything is local until the assignment at the end.

        Where no message can end, a chunk is only put by (depth 0, index above 0). What was put by is then most likely
        whole messages, which the C decoder reads at once; if not, brackets are counted until the message ends.
        """
        chunks, index, size, depth, _quoted, items = self._state
        chunk = chunks[index]
        if not chunk:
            self._state = (chunks[index + 1 :], 0, 0, 0, 0, items + deque([None]))
            return
        if depth:
            self._scan_chunk(chunk)
            return
        size += len(chunk)
        may_end = chunk.endswith((b"}", b"\n", b"\r", b" ", b"\t")) or _scan().AFTER_END.search(chunk)
        if not may_end and size <= self.limit and (index or chunk[:100].lstrip().startswith(b"{")):
            self._state = (chunks, index + 1, size, 0, 0, items)
            return
        if index:
            chunk = b"".join(chunks[: index + 1])
            self._state = ([chunk, *chunks[index + 1 :]], 0, 0, 0, 0, items)
        try:
            if size > self.limit:
                raise ValueError
            found = _decode_all(chunk.decode("utf-8"))
        except (ValueError, RecursionError):
            self._scan_chunk(chunk)
        else:
            self._state = (self._state[0][1:], 0, 0, 0, 0, items + found if items else found)

    def _scan_chunk(self, chunk: bytes) -> None:
        scan = _scan()
        chunks, index, size, depth, quoted, _items = self._state
        found: deque[Item] = deque()
        head, start, pos = index, 0, 0
        while True:
            if quoted:
                inside = chunk.find(b'"', pos) < 0  # by far the most likely in a long string, and cheap to know
                match = None if inside else scan.STRING_END.match(chunk, pos + quoted - 1)
                if match is None:
                    quoted = scan.open_string(chunk, pos + quoted - 1)
                    break
                pos, quoted = match.end(), 0
            elif depth == 0:
                start = pos = scan.SPACE.match(chunk, pos).end()
                if pos == len(chunk) or chunk[pos] != 0x7B:
                    break
            pos, depth, quoted = scan.follow(chunk, pos, depth)
            if pos < 0:
                break
            found.append(self._decode(b"".join([*chunks[:head], chunk[start:pos]]), size + pos - start))
            head, start, size = 0, pos, 0
        self._commit(chunk, start, depth, quoted, size, found)

    def _commit(self, chunk: bytes, start: int, depth: int, quoted: int, size: int, found: deque[Item]) -> None:
        chunks, index, _size, _depth, _quoted, items = self._state
        size += len(chunk) - start
        if depth and size > self.limit:
            found.append(self._too_long())
        elif not depth and start < len(chunk):
            found.append(errors.ProtocolError("the peer sent " + describe(chunk[start:])))
        if found and isinstance(found[-1], errors.ProtocolError):
            self._state = ([], 0, 0, 0, 0, items + found)
        elif depth and not start and not found:
            self._state = (chunks, index + 1, size, depth, quoted, items)
        elif depth:
            self._state = ([chunk[start:], *chunks[index + 1 :]], 1, size, depth, quoted, items + found)
        else:
            self._state = (chunks[index + 1 :], 0, 0, 0, 0, items + found)

    def _too_long(self) -> errors.ProtocolError:
        return errors.ProtocolError(f"one message of the peer is longer than max_reply ({self.limit} bytes)")

    def _decode(self, data: bytes, size: int) -> Item:
        if size > self.limit:
            return self._too_long()
        try:
            text = data.decode("utf-8")
            value, end = _raw_decode(text)
            if end == len(text):
                return value
            return errors.ProtocolError(f"the peer sent broken JSON: {describe(data)}")
        except (ValueError, RecursionError) as error:
            return errors.ProtocolError(f"the peer sent broken JSON ({error}): {describe(data)}")


class Transport:
    """A connected stream socket, non-blocking. It owns nothing: whoever made the socket closes it."""

    __slots__ = ("sock", "tls", "_torn")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.tls = hasattr(sock, "do_handshake")
        self._torn = False
        sock.setblocking(False)

    @property
    def passes_fds(self) -> bool:
        """Whether file descriptors can go along (SCM_RIGHTS: UNIX sockets only)."""
        return self.sock.family == getattr(socket, "AF_UNIX", None) and not self.tls

    def send(self, data: memoryview, fds: Sequence[int], sent: list[int]) -> bool:
        """Write what fits; the count is appended to ``sent`` in the same C call. False if nothing fits now.

        Raise OSError; with BrokenPipeError, ConnectionError the connection is gone.
        """
        try:
            if self.tls:
                self._guarded(self.sock.send, data, sent)
            elif fds:
                from array import array

                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))]
                sent.extend(map(self.sock.sendmsg, ([data],), (rights,)))
            else:
                sent.extend(map(self.sock.send, (data,)))
        except OSError as error:
            if _would_block(error):
                return False
            raise
        return True

    def receive(self, inbox: list[bytes]) -> int:
        """Read one chunk into ``inbox``, in one C call. -1 if there is nothing now, else its length (0: the end)."""
        try:
            if self.tls:
                self._guarded(self.sock.recv, CHUNK, inbox)
            else:
                inbox.extend(map(self.sock.recv, (CHUNK,)))
        except OSError as error:
            if _would_block(error):
                return -1
            if type(error).__name__ in ("SSLZeroReturnError", "SSLEOFError"):
                inbox.append(b"")
                return 0
            raise
        return len(inbox[-1])

    def _guarded(self, call: Callable[[Any], Any], argument: Any, into: list[Any]) -> None:
        # The TLS calls are Python code: an exception from a signal handler may lose what they moved, and with it
        # the place in the stream. That is noticed, and the connection given up, at the next use.
        if self._torn:
            raise ConnectionAbortedError("a signal cut a TLS transfer short")
        self._torn = True
        try:
            into.append(call(argument))
        except OSError:
            self._torn = False
            raise
        self._torn = False


def _would_block(error: OSError) -> bool:
    return isinstance(error, BlockingIOError) or type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")


def check_fds(name: str, fds: Sequence[int], transport: Transport) -> tuple[int, ...]:
    """Return the descriptors as a tuple, checked: open, and on a transport that takes them.

    Raise `errors.InvalidCommand`.
    """
    numbers = tuple(fds)
    if not numbers:
        return ()
    if not transport.passes_fds:
        raise errors.InvalidCommand(f"{name}: file descriptors can only be passed over a UNIX socket, not over TCP")
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int):
            raise errors.InvalidCommand(f"{name}: a descriptor is a number, not {number!r}")
        try:
            os.fstat(number)
        except (OSError, OverflowError) as error:
            raise errors.InvalidCommand(f"{name}: descriptor {number} can't be passed: {error}") from None
    return numbers
