# SPDX-License-Identifier: MIT
"""sockets_work.py ROUNDS - a server and its clients in one process, talking over TCP, and a chain of
threads over socket pairs; one line per round, which depends on every byte that was sent.

Each client opens a new connection now and then, and waits for the greeting before it asks. The same
argument gives the same output.
"""

import concurrent.futures
import hashlib
import socket
import socketserver
import struct
import sys
import threading

ROUNDS = int(sys.argv[1])
CLIENTS = 3
QUESTIONS = 40  # of a client in a round
RENEW = 3       # rounds until a client connects anew
LINKS = 4       # threads of the chain


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"hello\n")
        for line in self.rfile:
            digest = hashlib.sha256(line * 200).hexdigest()
            size = int(digest[:4], 16)
            self.wfile.write(struct.pack("!I", size) + digest.encode() * (size // 64 + 1))


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 20


class Client:
    def __init__(self, address, number):
        self.address, self.number, self.stream = address, number, None

    def round(self, turn):
        if self.stream is None or turn % RENEW == 0:
            if self.stream is not None:
                self.stream.close()
            with socket.create_connection(self.address) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.stream = connection.makefile("rwb")
            if self.stream.readline() != b"hello\n":
                raise SystemExit("no greeting")
        total = hashlib.sha256()
        for question in range(QUESTIONS):
            self.stream.write(f"{self.number} {turn} {question}\n".encode())
            self.stream.flush()
            size = struct.unpack("!I", self.stream.read(4))[0]
            total.update(self.stream.read(64 * (size // 64 + 1)))
        return total.hexdigest()


def link(source, target):
    """Passes packets on, each with its digest behind it."""
    while True:
        packet = source.recv(4096)
        if not packet:
            return
        target.send(packet[-2000:] + hashlib.sha256(packet).digest())


def main():
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    clients = [Client(server.server_address, n) for n in range(CLIENTS)]
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(LINKS + 1)]
    for number in range(LINKS):
        threading.Thread(target=link, args=(pairs[number][1], pairs[number + 1][0]),
                         daemon=True).start()
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        for turn in range(ROUNDS):
            for packet in range(5):
                pairs[0][0].send(f"packet {turn} {packet}".encode())
            answers = list(pool.map(lambda client: client.round(turn), clients))  # pylint: disable=cell-var-from-loop
            chain = hashlib.sha256(b"".join(pairs[LINKS][1].recv(4096) for _ in range(5)))
            print(turn, chain.hexdigest()[:16], *(a[:16] for a in answers), flush=True)
    server.shutdown()


main()
