# SPDX-License-Identifier: MIT
"""python_processes.py N - multiprocessing: a pool, a queue, shared values, a pipe, a manager-less
barrier, subprocess. The same output each time."""
import multiprocessing
import subprocess
import sys
import time


def square(number):
    time.sleep(0.004)
    return number * number


def produce(queue, count):
    for number in range(count):
        queue.put((number, "x" * (number % 50)))
        time.sleep(0.002)
    queue.put(None)


def count_up(value, rounds):
    for _ in range(rounds):
        with value.get_lock():
            value.value += 1
        time.sleep(0.001)


def echo(connection):
    while (message := connection.recv()) is not None:
        connection.send(message[::-1])


def meet(barrier, value, rounds):
    for _ in range(rounds):
        barrier.wait()
        with value.get_lock():
            value.value += 1
        time.sleep(0.001)


def main():
    size = int(sys.argv[1])
    with multiprocessing.Pool(3) as pool:
        print("pool", sum(pool.imap(square, range(size))), flush=True)
    queue = multiprocessing.Queue()
    producer = multiprocessing.Process(target=produce, args=(queue, size))
    producer.start()
    total = length = 0
    while (item := queue.get()) is not None:
        total += item[0]
        length += len(item[1])
    producer.join()
    print("queue", total, length, producer.exitcode, flush=True)
    value = multiprocessing.Value("i", 0)
    workers = [multiprocessing.Process(target=count_up, args=(value, size // 2)) for _ in range(3)]
    barrier = multiprocessing.Barrier(2)
    workers += [multiprocessing.Process(target=meet, args=(barrier, value, size // 4))
                for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print("value", value.value, flush=True)
    here, there = multiprocessing.Pipe(duplex=False), multiprocessing.Pipe(duplex=False)

    class Ends:
        recv, send = staticmethod(here[0].recv), staticmethod(there[1].send)

    echoing = multiprocessing.Process(target=echo, args=(Ends,))
    echoing.start()
    answers = []
    for number in range(size // 2):
        here[1].send(f"message {number}")
        answers.append(there[0].recv())
        time.sleep(0.001)
    here[1].send(None)
    echoing.join()
    print("pipe", len(answers), answers[-1], flush=True)
    for number in range(5):
        done = subprocess.run(["sh", "-c", f"sleep 0.02; echo $(({number} * 11))"],
                              capture_output=True, check=True)
        print("subprocess", done.stdout.decode().strip(), flush=True)


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    main()
