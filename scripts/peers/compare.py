"""Every client against one nginx in one run; see scripts/bench.sh --all, which starts this.

Prints the table, and writes it and a chart into the documents named by --docs.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import report
from clients import BODY, Aiohttp, Blaze, H2load, Oha, Wrk
from servers import PROTOCOLS, Nginx

SERVER_CORE, CLIENT_CORE = 1, 0
# No run of any client takes this long on a machine at rest.
RUN_SECONDS_MAX = 300
# In flight, and requests: few where one waits for the other.
MEMORY_FEW, MEMORY_MANY = (1, 500), (1000, 20_000)
MEMORY_SAMPLE_SECONDS = 0.005


class Run:
    """One run of one client."""

    def __init__(self, folder, nginx, protocol, in_flight, requests):
        self.folder, self.certificate = folder, nginx.certificate
        self.protocol, self.url = protocol, nginx.url(protocol)
        self.multiplexed = protocol == "HTTP/2 over TLS"
        self.in_flight, self.requests = in_flight, requests

    def path(self, name):
        return os.path.join(self.folder, name)

    def remove(self, name):
        if os.path.exists(self.path(name)):
            os.remove(self.path(name))

    def input(self):
        """The requests as a file, one body a line."""
        path = self.path(f"in-{self.requests}.jsonl")
        if not os.path.exists(path):
            with open(path, "w", encoding="utf-8") as out:
                out.write((BODY + "\n") * self.requests)
        return path


def anonymous_kib(process):
    """What the process holds that no file backs."""
    try:
        with open(f"/proc/{process}/status", encoding="utf-8") as status:
            for line in status:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


def execute(client, run, sample=False):
    """Seconds of CPU, seconds, requests answered, most anonymous KiB; None where the client cannot."""
    command = client.command(run)
    if command is None:
        return None
    with open(run.path("client.log"), "w+", encoding="utf-8") as log:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: os.sched_setaffinity(0, {CLIENT_CORE}),
        )
        watchdog = threading.Timer(RUN_SECONDS_MAX, process.kill)
        watchdog.start()
        peak = 0
        while sample and os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            peak = max(peak, anonymous_kib(process.pid))
            time.sleep(MEMORY_SAMPLE_SECONDS)
        _, status, usage = os.wait4(process.pid, 0)
        elapsed = time.monotonic() - started
        watchdog.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        output = log.read()
    if process.returncode != 0:
        raise SystemExit(f"{client.name} ended with {process.returncode} over {run.protocol}:\n{' '.join(command)}\n{output[-2000:]}")
    answered = client.answered(run, output)
    # wrk knows a time, in which a busy machine may not even open all connections.
    complete = answered == run.requests or client.name == "wrk" and (sample or answered > 0)
    if not complete:
        raise SystemExit(f"{client.name} over {run.protocol}: {answered} of {run.requests} answered\n{output[-2000:]}")
    return usage.ru_utime + usage.ru_stime, elapsed, answered, peak


def raise_file_limit():
    """Clients and nginx hold a socket for each request in flight."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--blaze", required=True)
    parser.add_argument("--oha", default="")
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--docs", default="")
    options = parser.parse_args()
    options.load = os.getloadavg()[0]
    if not {SERVER_CORE, CLIENT_CORE} <= os.sched_getaffinity(0):
        raise SystemExit("two cores are needed: one for the server, one for the client")
    raise_file_limit()
    clients = [Blaze(options.blaze, "uring"), Blaze(options.blaze, "tokio"), Wrk(), H2load()]
    clients += [Oha(options.oha), Aiohttp(sys.executable)]
    started = time.monotonic()
    folder = tempfile.mkdtemp(prefix="blaze-bench-")
    nginx = Nginx(folder, SERVER_CORE)
    try:
        rows = measure(options, clients, folder, nginx)
    finally:
        nginx.stop()
        shutil.rmtree(folder)
    machine = report.machine(options, time.monotonic() - started)
    print(machine, report.table(rows), sep="\n\n")
    if options.docs:
        report.write(options.docs, machine, rows)


def measure(options, clients, folder, nginx):
    """Rows of the table. Clients take turns, so that a slow spell of the machine meets them all."""
    rows = []
    for protocol in PROTOCOLS:
        samples = {client.name: [] for client in clients}
        for number in range(options.runs):
            for client in clients:
                requests = max(1000, int(options.requests * client.share))
                run = Run(folder, nginx, protocol, options.in_flight, requests)
                result = execute(client, run)
                if result is not None:
                    samples[client.name].append(result)
                    print(f"{protocol}, {client.name}, run {number + 1}: {1e6 * result[0] / result[2]:.2f} µs", file=sys.stderr)
        for client in clients:
            if samples[client.name]:
                results = samples[client.name]
                rows.append(
                    report.Row(
                        protocol=protocol,
                        client=client.name,
                        cpu_us=statistics.median(1e6 * cpu / answered for cpu, _, answered, _ in results),
                        per_second=statistics.median(answered / elapsed for _, elapsed, answered, _ in results),
                        memory_kib=memory(client, folder, nginx, protocol),
                    )
                )
    return rows


def memory(client, folder, nginx, protocol):
    """Anonymous KiB that one more request in flight costs: the difference between many and one."""
    peaks = []
    for in_flight, requests in (MEMORY_FEW, MEMORY_MANY):
        run = Run(folder, nginx, protocol, in_flight, max(2 * in_flight, int(requests * client.share)))
        peaks.append(execute(client, run, sample=True)[3])
    return (peaks[1] - peaks[0]) / (MEMORY_MANY[0] - MEMORY_FEW[0])


if __name__ == "__main__":
    main()
