"""A network namespace that reaches this machine only and records every packet sent elsewhere."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NEW_NETWORK = 0x40000000
_EVERY_PROTOCOL = 3
_ATTACH_FILTER = 26
# Every address is routed to loopback, so a stray connection is refused immediately and its packet recorded.
_LAYOUT = ("ip link set lo up", "ip route add local default dev lo", "ip -6 route add local default dev lo")
# BPF as (code, jump if true, jump if false, operand): IPv4 not to 127.0.0.0/8, and all IPv6, of which there is little.
_FILTER = (
    (0x28, 0, 0, 12), (0x15, 0, 2, 0x0800), (0x30, 0, 0, 30), (0x15, 2, 1, 127),
    (0x15, 0, 1, 0x86DD), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0),
)  # fmt: skip


class CannotSeparate(Exception):
    """The tests cannot have their own network namespace on this machine."""


@contextmanager
def no_way_out() -> Iterator[list[str]]:
    """Move this thread and all processes it starts into the namespace; yields a growing list, a line per stray packet.

    Threads started in the block stay in the namespace: run libraries with process-wide threads in another process.

    Raises:
        CannotSeparate: needs Linux, the right to create a network namespace (root has it) and the program `ip`.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    notes: list[str] = []
    with _own_network() as before:
        if libc.unshare(_NEW_NETWORK):
            raise CannotSeparate(os.strerror(ctypes.get_errno()))
        try:
            with _listening() as sniffer:
                threading.Thread(target=_note, args=(sniffer, notes), daemon=True).start()
                yield notes
        finally:
            if libc.setns(before, _NEW_NETWORK):
                raise OSError(ctypes.get_errno(), "cannot return to the original network namespace")


@contextmanager
def _own_network() -> Iterator[int]:
    try:
        opened = os.open("/proc/self/ns/net", os.O_RDONLY)
    except OSError as error:
        raise CannotSeparate(str(error)) from None
    try:
        yield opened
    finally:
        os.close(opened)


@contextmanager
def _listening() -> Iterator[socket.socket]:
    try:
        for command in _LAYOUT:
            subprocess.run(command.split(), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotSeparate(str(error)) from None
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PROTOCOL)) as sniffer:
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _FILTER))
        sniffer.setsockopt(
            socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", len(_FILTER), ctypes.addressof(program))
        )
        sniffer.bind(("lo", 0))
        yield sniffer


def _note(sniffer: socket.socket, notes: list[str]) -> None:
    while True:
        try:
            packet = sniffer.recv(2048)
        except OSError:
            return
        note = _describe(packet)
        if note:
            notes.append(note)


def _describe(packet: bytes) -> str:
    if packet[12:14] != b"\x08\x00":
        address = socket.inet_ntop(socket.AF_INET6, packet[38:54])
        return "" if address == "::1" else f"to {address}"
    port = int.from_bytes(packet[36:38], "big")
    payload = "".join(chr(byte) if 32 < byte < 127 else "." for byte in packet[42:120])
    return f"to {socket.inet_ntoa(packet[30:34])} port {port} {payload}"
