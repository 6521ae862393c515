"""Calls Version on a unix socket with gRPC for Python, no stubs: version.py SOCKET CALL. Prints the answer's bytes."""

import sys

import grpc

socket, call = sys.argv[1:]
with grpc.insecure_channel("unix://" + socket) as channel:
    sys.stdout.buffer.write(channel.unary_unary(call)(b"", timeout=20))
