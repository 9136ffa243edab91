"""A proxy on the loopback that delays, cuts and refuses connections, as it is told.

    proxy = Proxy(upstream_port)      listens on `proxy.port`, in a thread of its own, until the process ends
    proxy.delay = 0.5                 each chunk waits this long, in seconds
    proxy.cut = 0.2                   each chunk's connection is cut instead with this probability
    proxy.refuse = True               new connections are cut at once

Only the standard library.
"""

import asyncio
import random
import threading

CHUNK = 64 * 1024


class Proxy:
    def __init__(self, upstream, seed=0):
        self.delay, self.cut, self.refuse = 0.0, 0.0, False
        self.connections = self.cuts = 0
        self._upstream, self._rng = upstream, random.Random(f"{seed} proxy")
        started = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True).start()
        started.wait()

    def calm(self):
        self.delay, self.cut, self.refuse = 0.0, 0.0, False

    async def _serve(self, started):
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await server.serve_forever()

    async def _connection(self, reader, writer):
        self.connections += 1
        if self.refuse:
            self.cuts += 1
            writer.transport.abort()
            return
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            return
        ends = (writer, other_writer)
        await asyncio.gather(self._pump(reader, other_writer, ends), self._pump(other_reader, writer, ends))

    async def _pump(self, reader, writer, ends):
        """One direction, until its reader ends or the connection is cut, which loses what is under way in both."""
        try:
            while chunk := await reader.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self._rng.random() < self.cut:
                    self.cuts += 1
                    for end in ends:
                        end.transport.abort()
                    return
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        # Sends what it was given before it closes; then the other direction has nothing more to read either.
        writer.close()
