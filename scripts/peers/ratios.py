"""CPU per request in ratios, from runs in turns against one nginx; see scripts/bench.sh --ratios, which starts this.

A slow spell of the machine meets both sides of a ratio: each is the median over the rounds of the two runs' quotient.
"""

import argparse
import shutil
import statistics
import sys
import tempfile

from clients import Blaze, H2load, Wrk
from compare import SERVER_CORE, Run, execute, raise_file_limit
from servers import Nginx

PLAIN, TLS, HTTP2 = "HTTP/1.1", "HTTP/1.1 over TLS", "HTTP/2 over TLS"
# Name, then protocol, client and requests in flight of what is divided, and of what it is divided by.
RATIOS = (
    ("HTTP/1.1, 256 in flight: blaze-uring / wrk", (PLAIN, "blaze", 256), (PLAIN, "wrk", 256)),
    ("HTTP/1.1: blaze-uring with 1000 in flight / with 64", (PLAIN, "blaze", 1000), (PLAIN, "blaze", 64)),
    ("the same of wrk", (PLAIN, "wrk", 1000), (PLAIN, "wrk", 64)),
    ("TLS, 256 in flight: blaze-uring / wrk", (TLS, "blaze", 256), (TLS, "wrk", 256)),
    ("HTTP/2 over TLS, 4 connections of 64 streams: blaze-uring / h2load", (HTTP2, "blaze", 256), (HTTP2, "h2load", 256)),
    ("HTTP/1.1, 256 in flight: tokio / io_uring", (PLAIN, "tokio", 256), (PLAIN, "blaze", 256)),
)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--blaze", required=True)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    raise_file_limit()
    clients = {"blaze": Blaze(options.blaze, "uring"), "tokio": Blaze(options.blaze, "tokio"), "wrk": Wrk(), "h2load": H2load()}
    cases = list(dict.fromkeys(case for _, *sides in RATIOS for case in sides))
    samples = {case: [] for case in cases}
    folder = tempfile.mkdtemp(prefix="blaze-bench-")
    nginx = Nginx(folder, SERVER_CORE)
    try:
        for number in range(options.runs):
            for case in cases:
                protocol, client, in_flight = case
                result = execute(clients[client], Run(folder, nginx, protocol, in_flight, options.requests))
                if result is None:
                    raise SystemExit(f"{client} is not installed")
                cpu, _, answered, _ = result
                samples[case].append(1e6 * cpu / answered)
            print(f"round {number + 1} of {options.runs}", file=sys.stderr)
    finally:
        nginx.stop()
        shutil.rmtree(folder)
    print(f"| CPU per request, {options.requests} requests, {options.runs} rounds | ratio | quartiles | µs / µs (medians) |")
    print("|---|---|---|---|")
    for name, above, below in RATIOS:
        quotients = sorted(one / other for one, other in zip(samples[above], samples[below], strict=True))
        quartiles = quotients[len(quotients) // 4], quotients[-1 - len(quotients) // 4]
        medians = statistics.median(samples[above]), statistics.median(samples[below])
        print(
            f"| {name} | {statistics.median(quotients):.2f} | {quartiles[0]:.2f} to {quartiles[1]:.2f} "
            f"| {medians[0]:.2f} / {medians[1]:.2f} |"
        )


if __name__ == "__main__":
    main()
