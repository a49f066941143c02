"""What up.py and kill.py share: which nodes there are, and how to ask one."""

import re
import socket


def nodes_of(conf):
    """Names and ports of the nodes in a configuration, in order."""
    table = r'^\[nodes\.(\w+)\]\s+address = "127\.0\.0\.1:(\d+)"'
    return [(name, int(port)) for name, port in re.findall(table, conf.read_text(), re.MULTILINE)]


class Connection:
    """A connection to a node: one command after the other."""

    def __init__(self, port, patience_s=10):
        self.socket = socket.create_connection(("127.0.0.1", port), patience_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def ask(self, *words):
        """The reply to a command: a text, a number, None or a list; an error reply is an exception."""
        request = b"*%d\r\n" % len(words)
        for word in words:
            word = word.encode()
            request += b"$%d\r\n%s\r\n" % (len(word), word)
        self.socket.sendall(request)
        return self.reply()

    def reply(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the node has closed the connection")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"-":
            raise RuntimeError(rest)
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == "-1" else self.file.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return rest


def ask(port, *words):
    """The reply of a node to one command; None if it does not answer."""
    try:
        return Connection(port).ask(*words)
    except OSError:
        return None
