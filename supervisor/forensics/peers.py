"""Which address a socket leads to, from the kernel's tables of sockets. Pure."""

import ipaddress
import re
import struct

LISTENING = "0A"
UNIX_TABLE, INET_TABLES = "unix", ("udp", "udp6", "tcp", "tcp6")  # the kernel takes 5 ms for each of the last two

_ENDPOINT = re.compile(r"([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4})")
_UNIX = re.compile(r"[0-9a-fA-F]+: [0-9A-F]+ [0-9A-F]+ [0-9A-F]+ [0-9A-F]+ [0-9A-F]+ +([0-9]+)(?: (.*))?")


def inet(table: str, inode: int) -> str:
    """The other end of a socket, its own address if it listens or has no other end; "" when it is not in the table.

    `table` is the text of /proc/PID/net/tcp, tcp6, udp or udp6, or the beginning of it.
    """
    for line in _lines_with(table, f" {inode} "):
        fields = line.split()
        if len(fields) > 9 and fields[9] == str(inode):
            local, remote = endpoint(fields[1]), endpoint(fields[2])
            return local if fields[3] == LISTENING or not remote else remote
    return ""


def endpoint(text: str) -> str:
    """An address as the kernel prints it, in the usual form; "" when it is unset or none."""
    match = _ENDPOINT.fullmatch(text)
    if match is None or match[2] == "0000":
        return ""
    words = [int(match[1][at : at + 8], 16) for at in range(0, len(match[1]), 8)]
    address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return f"[{address}]:{int(match[2], 16)}" if mapped is None else f"{mapped}:{int(match[2], 16)}"
    return f"{address}:{int(match[2], 16)}"


def unix(table: str, inode: int) -> str | None:
    """The path a unix socket is bound to, "" when to none; None when it is not in the table.

    `table` is the text of /proc/PID/net/unix, or the beginning of it. The path of the other end is not in it.
    """
    for line in _lines_with(table, f" {inode}"):
        match = _UNIX.fullmatch(line)
        if match is not None and match[1] == str(inode):
            return match[2] or ""
    return None


def _lines_with(table: str, mark: str) -> list[str]:
    """Whole lines only: the last one may have been cut."""
    found, at = [], table.find(mark)
    while at >= 0 and (end := table.find("\n", at)) >= 0:
        found.append(table[table.rfind("\n", 0, at) + 1 : end])
        at = table.find(mark, end)
    return found
