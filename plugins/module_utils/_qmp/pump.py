# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The engine of a session: who writes, who reads, and whose answer it is.

There is no reader thread. One lock guards the state; whoever waits moves it on: one of the waiting threads polls the
socket (the leader), the others are parked until their answer is there, or until it is their turn to lead.

An exception of a signal handler may come between any two steps while the lock is held. So each change takes effect by
one assignment (the "commit"), and what comes before it can be done again.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import errno
import os
import select
import socket
from binascii import b2a_base64
from collections import deque

from . import errors
from .call import DROPPED, EVENT, QUEUE, REPLY, WRITE, Call
from .deadline import HEARS_WITHIN
from .events import Event, EventLog, make_event
from .lock import SignalLock
from .wire import CHUNK, Reader, Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Deque

    from .deadline import Limit

_BAD_FDS = (errno.EBADF, errno.EINVAL, errno.ETOOMANYREFS)


class Pump:
    """Moves bytes and messages between one transport and the calls of any number of threads."""

    def __init__(self, transport: Transport, max_reply: int) -> None:
        self.transport = transport
        self.reader = Reader(max_reply)
        self.log = EventLog()
        self.greeting: dict[str, Any] | None = None
        self.messages_before_greeting = 0  # messages that came before the greeting
        self.failure: Exception | None = None
        self.closing = False
        self._fresh()

    def _fresh(self) -> None:
        """State that belongs to one process; a forked one starts anew, and does not share ids with its parent."""
        self.pid = os.getpid()
        self.lock = SignalLock()
        self._number = int.from_bytes(os.urandom(3), "big")
        self._echoed = False
        self._calls: dict[Call, None] = {}
        self._queue: Deque[Call] = deque()
        self._oob_queue: Deque[Call] = deque()
        self._writing: Call | None = None
        self._owed: dict[str, Call] = {}  # written in full, not answered
        self._leader: Call | None = None
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._poller = select.poll()
        self._poller.register(self.transport.sock, select.POLLIN)
        self._poller.register(self._wake_in, select.POLLIN)
        self._polls_out = False

    def check_fork(self) -> None:
        """To be called first by every public function, without the lock."""
        if os.getpid() != self.pid and self.failure is None:
            self._fresh()

    def next_id(self) -> str:
        """Return a new id: a counter with a start that is random for each session and process.

        Random, since QEMU gives a late reply to its next client. Four characters, since QEMU takes 4 us to read one.
        """
        self._number = number = (self._number + 1) & 0xFFFFFF
        return b2a_base64(number.to_bytes(3, "big"), newline=False).decode("ascii")

    @property
    def busy(self) -> bool:
        """Whether a command is written, in part or in full, and not answered."""
        return bool(self._owed) or self._unfinished is not None

    @property
    def _unfinished(self) -> Call | None:
        """The command to write on with. One that its caller has given up is none at the end: QEMU shall not run it."""
        call = self._writing
        return None if self.closing and call not in self._calls else call

    # -- waiting -----------------------------------------------------------------------------------------------

    def run(self, call: Call, limit: Limit, since: int | None = None) -> None:
        """Queue ``call`` (if it is a command) and wait until it is finished.

        ``since``: number of the first event that counts for a plain wait; None: those that come from now on.
        Raise `errors.CommandTimeout`, `errors.Cancelled`, `errors.Disconnected`, `errors.ProtocolError`.
        """
        try:
            try:
                if limit.deadline is not None:
                    limit.deadline.attach(call, lambda: self._interrupt(call))
                self._enter(call, limit, since)
                self._wait(call, limit)
            finally:
                self._leave(call, limit)
        except BaseException:
            self._leave(call, limit)  # a signal may have cut the first one short
            raise

    def _enter(self, call: Call, limit: Limit, since: int | None) -> None:
        with self.lock:
            self._check(call, limit)
            self._calls[call] = None
            if call.name is not None:
                (self._oob_queue if call.oob else self._queue).append(call)
            elif call.wants is not None:
                self.advance(read=True)
                call.cursor = self.log.count if since is None else max(0, since)

    def _wait(self, call: Call, limit: Limit) -> None:
        read = call.done is not None
        while True:
            fresh: list[Event] = []
            with self.lock:
                if self._leader is call:
                    self._leader = None
                self.advance(read)
                if call.wants is not None and call.event is None and call.cursor is not None:
                    fresh = self.log.since(call.cursor)
                    seen = self.log.count
                if not fresh:
                    if call.finished:
                        return
                    self._check(call, limit)
                    poll = self._lead(call)
            if fresh:
                # Without the lock: it is the caller's own code.
                call.look(fresh, seen)
                read = False
            elif poll is not None:
                read = self._poll(poll, limit)
            else:
                call.park.acquire(True, limit.remaining())

    def _lead(self, call: Call) -> Any:
        """Become the leader if there is none: the poll object; else None."""
        if self._leader is not None:
            if self._unfinished is not None and not self._polls_out:
                self._wake()  # the leader may not know that there is something left to write
            return None
        writing = self._unfinished is not None
        if writing != self._polls_out:
            self._poller.modify(self.transport.sock, select.POLLIN | (select.POLLOUT if writing else 0))
            self._polls_out = writing
        self._leader = call
        return self._poller

    def _poll(self, poll: Any, limit: Limit) -> bool:
        """Wait for the socket or a wake-up, but not long; whether there is something to read."""
        read = False
        woken = self._wake_in.fileno()
        for number, _what in poll.poll(limit.remaining(HEARS_WITHIN) * 1000):
            if number == woken:
                try:
                    self._wake_in.recv(4096)
                except OSError:
                    pass
            else:
                read = True
        return read

    def _check(self, call: Call, limit: Limit) -> None:
        """Raise what ends the wait of ``call``."""
        if call.refused is not None:
            raise call.refused
        if self.failure is not None or (self.closing and call.done is None and call.state not in (WRITE, REPLY)):
            raise self._lost(call)
        if limit.cancelled:
            raise errors.Cancelled(call.name, call.state)
        if limit.expired:
            raise errors.CommandTimeout(call.name, call.state, limit.seconds)

    def _lost(self, call: Call) -> Exception:
        why = self.failure
        if isinstance(why, errors.ProtocolError) and call.state != QUEUE:
            return errors.ProtocolError(f"{call.name}: {why}" if call.name else str(why))
        unwritten = call.state == QUEUE or (call.state == WRITE and sum(call.sent) < len(call.frame) - 1)
        return errors.Disconnected(str(why or "the session was closed"), call.name, bool(call.name) and not unwritten)

    def _leave(self, call: Call, limit: Limit) -> None:
        """Forget ``call``, except what QEMU still owes an answer for. Can be done twice."""
        if limit.deadline is not None:
            limit.deadline.detach(call)
        with self.lock:
            if call.state == QUEUE or (call.state == WRITE and not call.sent):
                call.state = DROPPED  # never written; its place in the queue is passed over
                if self._writing is call:
                    self._writing = None
            if self._leader is call:
                self._leader = None
            self._calls.pop(call, None)
            if self._leader is None:
                for other in self._calls:
                    other.unpark()
                    break
            self._release()

    def _release(self) -> None:
        """Close what the waiting needs, once nobody waits any more. With the lock."""
        if self.failure is not None and not self._calls:
            self._wake_in.close()
            self._wake_out.close()

    # -- waking ------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        try:
            self._wake_out.send(b"\0")
        except OSError:
            pass  # full: the leader is being woken already

    def _interrupt(self, call: Call) -> None:
        """Make ``call`` look again. Takes no lock."""
        call.unpark()
        self._wake()

    def _unpark(self, call: Call) -> None:
        if call is self._leader:
            self._wake()
        else:
            call.unpark()

    def fail(self, why: Exception) -> None:
        """End the session: tell every waiter. With the lock."""
        if self.failure is None:
            self.failure = why
        self.rouse_all()
        self._release()

    def rouse_all(self) -> None:
        """Make every waiter look again. With the lock."""
        for call in self._calls:
            self._unpark(call)

    # -- moving ------------------------------------------------------------------------------------------------

    def advance(self, read: bool) -> None:
        """Write and read what can be without waiting. With the lock."""
        if self.failure is not None:
            return
        self._settle()  # what a signal left undone
        self._write()  # before reading: what is sent in full is known to be owed then
        if read:
            self.read()
            self._write()

    def read(self) -> None:
        """Take in everything that lies unread. With the lock."""
        try:
            while self.failure is None:
                count = self.transport.receive(self.reader.inbox)
                if count < 0:
                    return
                self._settle()
                if count < CHUNK and not self.transport.tls:
                    return  # a short read has emptied the socket; the next poll tells the rest
        except OSError as error:
            self.fail(errors.Disconnected(f"the connection broke ({error.strerror or error})"))

    def _settle(self) -> None:
        """Take in what has been received."""
        self.reader.parse()
        if self.reader.items:
            self._deliver()

    def _write(self) -> None:
        while self.failure is None:
            call = self._unfinished or self._begin()
            if call is None:
                return
            call.state = WRITE
            done = sum(call.sent)
            if done < len(call.frame):
                if not self._send(call, done):
                    return
                continue
            if call.reply is None:  # else this was cut short before, and the reply has come meanwhile
                self._owed[call.id] = call
                call.state = REPLY
            self._writing = None
            queue = self._oob_queue if call.oob else self._queue
            if queue and queue[0] is call:
                queue.popleft()

    def _begin(self) -> Call | None:
        """Start to write the command whose turn it is."""
        call = self._next() if self._queue or self._oob_queue else None
        if call is None:
            return None
        if call.wants is not None:
            self.read()  # an event that lies unread is older than the command
            call.cursor = self.log.count
        self._writing = call
        return call

    def _next(self) -> Call | None:
        """Return the command whose turn it is: one out of band at any time, else one if no other is on its way."""
        if self.closing:
            return None
        queues = [self._oob_queue]
        if not any(not call.oob for call in self._owed.values()):
            queues.append(self._queue)
        for queue in queues:
            while queue:
                if queue[0].state == QUEUE:
                    return queue[0]
                queue.popleft()
        return None

    def _send(self, call: Call, done: int) -> bool:
        """Write on; False if nothing fits now."""
        try:
            return self.transport.send(memoryview(call.frame)[done:], () if done else call.fds, call.sent)
        except OSError as error:
            if error.errno in _BAD_FDS and call.fds and not done:
                call.refused = errors.InvalidCommand(f"{call.name}: its descriptors can't be passed: {error.strerror}")
                call.state = DROPPED
                self._writing = None
                self._unpark(call)
                return True
            self.read()  # a reply that is there wins over the disconnect
            self.fail(errors.Disconnected(f"the connection broke ({error.strerror or error})"))
            return False

    def _deliver(self) -> None:
        items = self.reader.items
        while items:
            item = items[0]
            if isinstance(item, dict):
                if "event" in item:
                    items[0] = make_event(item)
                    continue
                if "return" in item or "error" in item:
                    self._reply(item)
                elif "QMP" in item and self.greeting is None:
                    self.greeting = item
                if self.greeting is None:
                    self.messages_before_greeting += 1
            elif isinstance(item, Event):
                self.log.add(item)
                for call in self._calls:
                    if call.wants is not None:
                        self._unpark(call)
            else:
                self.fail(item or errors.Disconnected("QEMU closed the connection"))
            items.popleft()

    def _reply(self, reply: dict[str, Any]) -> None:
        """Give a reply to the command it belongs to, or drop it."""
        if "id" in reply:
            key = reply["id"]
            call = self._owed.get(key) if isinstance(key, str) else None
            if call is not None:
                self._echoed = True
        else:
            call = self._without_id(reply)
        if call is None:
            return
        call.reply = reply
        call.state = EVENT
        self._unpark(call)
        self._owed.pop(call.id, None)

    def _without_id(self, reply: dict[str, Any]) -> Call | None:
        """Whose a reply without an id is. QEMU sends errors so if it could not parse; others' leftovers are so too."""
        if not self._owed or ("error" not in reply and self._echoed):
            return None
        if len(self._owed) > 1:
            if "error" in reply:
                text = errors.command_error("a command", reply["error"])
                self.fail(errors.ProtocolError(f"an error without id while several commands are under way: {text}"))
            return None
        return next(iter(self._owed.values()))
