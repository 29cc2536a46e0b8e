"""Clients of a RabbitMQ: publishers without a limit, and idle connections beside them.

usage: rabbitmq.py PORT SECONDS PUBLISHERS IDLE_PER_SECOND

Prints the facts as NAME=VALUE. lost: idle connections that were open and are no longer. publishers_lost: the same
for publishers. queues: those of the publishers that answer at the end, with a message put and taken.
"""
import asyncio
import multiprocessing
import os
import struct
import sys
import time

import pika

BODY = os.urandom(256 * 1024)


def connect(port):
    parameters = pika.ConnectionParameters("127.0.0.1", port, heartbeat=0, socket_timeout=10, blocked_connection_timeout=None)
    for attempt in range(20):
        try:
            return pika.BlockingConnection(parameters)
        except pika.exceptions.AMQPConnectionError:
            time.sleep(0.5)
    return pika.BlockingConnection(parameters)


def publish(port, number, ready, seconds, sent, lost):
    try:
        channel = connect(port).channel()
        channel.queue_declare(f"q{number}")
        ready.wait()
        until = time.time() + seconds
        while time.time() < until:
            channel.basic_publish("", f"q{number}", BODY)
            sent.value += 1
    except Exception as error:
        lost.value = 1
        print(f"publisher {number}: {type(error).__name__} {error}"[:200], file=sys.stderr)


def frame(method, payload):
    body = struct.pack(">HH", *method) + payload
    return struct.pack(">BHI", 1, 0, len(body)) + body + b"\xce"


def shortstr(text):
    return struct.pack(">B", len(text)) + text


def longstr(text):
    return struct.pack(">I", len(text)) + text


async def read_frame(reader):
    head = await reader.readexactly(7)
    return await reader.readexactly(struct.unpack(">I", head[3:])[0] + 1)


async def idle(port, counts):
    """Opens a connection and holds it until the server ends it."""
    opened = False
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"AMQP\x00\x00\x09\x01")
        await read_frame(reader)
        start = longstr(b"") + shortstr(b"PLAIN") + longstr(b"\x00guest\x00guest") + shortstr(b"en_US")
        writer.write(frame((10, 11), start))
        await read_frame(reader)
        writer.write(frame((10, 31), struct.pack(">HIH", 2047, 131072, 0)))
        writer.write(frame((10, 40), shortstr(b"/") + shortstr(b"") + b"\x00"))
        await read_frame(reader)
        opened = True
        counts["open"] += 1
        while await reader.read(65536):
            pass
    except (OSError, asyncio.IncompleteReadError):
        pass
    counts["lost" if opened else "refused"] += 1


async def idlers(port, per_second, until):
    counts = {"open": 0, "lost": 0, "refused": 0}
    tasks = []
    begun = time.time()
    while time.time() < until:
        due = int((time.time() - begun) * per_second) - len(tasks)
        tasks += [asyncio.ensure_future(idle(port, counts)) for _ in range(due)]
        await asyncio.sleep(0.05)
    result = dict(counts, asked=len(tasks))
    for task in tasks:
        task.cancel()
    return result


def answers(port, number):
    """Whether a queue takes a message and gives one, within some seconds."""
    try:
        connection = connect(port)
        channel = connection.channel()
        channel.queue_declare(f"q{number}", passive=True)
        got = channel.basic_get(f"q{number}", auto_ack=True)
        connection.close()
        return got[0] is not None
    except Exception as error:
        print(f"q{number}: {type(error).__name__} {error}"[:200], file=sys.stderr)
        return False


def main():
    port, seconds, publishers, per_second = map(int, sys.argv[1:])
    # All begin once each publisher has its queue.
    ready = multiprocessing.Barrier(publishers + 1)
    sent = [multiprocessing.Value("i", 0) for _ in range(publishers)]
    lost = [multiprocessing.Value("i", 0) for _ in range(publishers)]
    processes = [
        multiprocessing.Process(target=publish, args=(port, n, ready, seconds, sent[n], lost[n]), daemon=True)
        for n in range(publishers)
    ]
    for process in processes:
        process.start()
    ready.wait(60)
    counts = asyncio.run(idlers(port, per_second, time.time() + seconds))
    publishers_lost = sum(value.value for value in lost)
    for process in processes:
        process.terminate()
    time.sleep(3)
    pool = multiprocessing.Pool(publishers)
    asked = [pool.apply_async(answers, (port, n)) for n in range(publishers)]
    queues = 0
    for result in asked:
        try:
            queues += result.get(timeout=20)
        except multiprocessing.TimeoutError:
            pass
    pool.terminate()
    facts = {
        "published_mib": sum(value.value for value in sent) // 4,
        "publishers_lost": publishers_lost,
        "idle_open": counts["open"] - counts["lost"],
        "idle_lost": counts["lost"],
        "idle_refused": counts["refused"],
        "idle_asked": counts["asked"],
        "queues": queues,
    }
    print(" ".join(f"{name}={value}" for name, value in facts.items()))


if __name__ == "__main__":
    main()
