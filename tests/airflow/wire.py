"""A network without a way out: who enters it reaches this machine only, and whatever was meant for others is noted."""

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
# Every address belongs to the loopback interface, so that a stray connection is refused at once and seen on the way.
_LAYOUT = ("ip link set lo up", "ip route add local default dev lo", "ip -6 route add local default dev lo")
# (code, if true, if false, operand): of IPv4 what does not go to 127.0.0.0/8, and all IPv6, of which there is little.
_FILTER = (
    (0x28, 0, 0, 12), (0x15, 0, 2, 0x0800), (0x30, 0, 0, 30), (0x15, 2, 1, 127),
    (0x15, 0, 1, 0x86DD), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0),
)  # fmt: skip


class CannotSeparate(Exception):
    """This machine does not let the tests have a network of their own."""


@contextmanager
def no_way_out() -> Iterator[list[str]]:
    """Enter it, with all processes started from here on; gives the notes, which grow: one for each stray packet.

    A thread begun in here stays in here. Libraries that keep threads for the whole process belong into a process of
    their own.

    Raises:
        CannotSeparate: it takes Linux, the right to make a network (root has it), and the program `ip`.
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
                raise OSError(ctypes.get_errno(), "the way back into the first network is closed")


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
        note = _described(packet)
        if note:
            notes.append(note)


def _described(packet: bytes) -> str:
    if packet[12:14] != b"\x08\x00":
        address = socket.inet_ntop(socket.AF_INET6, packet[38:54])
        return "" if address == "::1" else f"to {address}"
    port = int.from_bytes(packet[36:38], "big")
    said = "".join(chr(byte) if 32 < byte < 127 else "." for byte in packet[42:120])
    return f"to {socket.inet_ntoa(packet[30:34])} port {port} {said}"
