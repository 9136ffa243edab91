#!/usr/bin/env python3
"""Creates the bucket and the container `mvsink` in the emulators, once they answer.

    buckets.py s3 http://127.0.0.1:PORT
    buckets.py azure http://127.0.0.1:PORT
    buckets.py port                          prints a port of the loopback that is free

Only the standard library. The account and the key are those that Azurite is built with, as documented.
"""

import base64
import email.utils
import hashlib
import hmac
import http.client
import socket
import sys
import time
from urllib.parse import urlparse

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
PATIENCE_SECONDS = 60


def s3():
    return "/mvsink", {}


def azure():
    path = f"/{ACCOUNT}/mvsink"
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    # The protocol's "string to sign": the method, eleven headers that are not sent, ours, and what is asked for.
    signed = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
    text = "PUT" + "\n" * 12 + signed + f"/{ACCOUNT}{path}\nrestype:container"
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    return f"{path}?restype=container", headers


def create(kind, endpoint):
    address = urlparse(endpoint)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        path, headers = {"s3": s3, "azure": azure}[kind]()
        try:
            connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
            connection.request("PUT", path, headers={"Content-Length": "0", **headers})
            answer = connection.getresponse()
            if answer.status in (200, 201):
                return
            why = f"{answer.status} {answer.read(400)!r}"
        except OSError as error:
            why = str(error)
        if time.monotonic() > deadline:
            sys.exit(f"buckets.py: {endpoint}: {why}")
        time.sleep(0.1)


def main():
    match sys.argv[1:]:
        case ["port"]:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                print(free.getsockname()[1])
        case ["s3" | "azure" as kind, endpoint]:
            create(kind, endpoint)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
