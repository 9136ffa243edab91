#!/usr/bin/env python3
"""moto's S3 server on a port of the loopback, one request at a time.

    s3_server.py PORT

moto looks whether an object is there and puts it in two steps (`_key_response_put`: get_object, then put_object), so
that with its threads two creates could both succeed, which S3 rules out. One at a time, a create is atomic.
"""

import logging
import sys
import threading

from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


def main():
    application = DomainDispatcherApplication(create_backend_app)
    turn = threading.Lock()

    def one_at_a_time(environ, start_response):
        with turn:
            return list(application(environ, start_response))

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    run_simple("127.0.0.1", int(sys.argv[1]), one_at_a_time, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main()
