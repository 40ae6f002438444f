"""How each client is told to post the same body, so many times, with so many requests in flight."""

import json
import os
import re
import shutil

from servers import STREAMS

BODY = (
    '{"model":"bench","messages":[{"role":"user","content":"Summarise the following paragraph in one sentence: '
    "the quick brown fox jumps over the lazy dog and then goes home to write about it at some length."
    '"}],"max_tokens":128}'
)


class Client:
    """`command(run)` is its argument list, or None where it does not speak the protocol; `check(run, output)`
    says how many requests were answered."""

    name = ""
    # Of the requests asked of the others; a slow client would take minutes.
    share = 1.0

    def answered(self, run, output):
        return run.requests


class Blaze(Client):
    def __init__(self, program, runtime):
        self.program, self.runtime = program, runtime
        self.name = f"blaze-uring ({'io_uring' if runtime == 'uring' else runtime})"

    def command(self, run):
        config = run.path("config.json")
        endpoint = {"url": run.url, "model": "bench", "max_concurrent": run.in_flight}
        if run.protocol == "HTTP/1.1 over TLS":
            endpoint["http2"] = False
        with open(config, "w", encoding="utf-8") as out:
            json.dump({"endpoints": [endpoint]}, out)
        for name in ("records.jsonl", "errors.jsonl"):
            run.remove(name)
        return [self.program, "-c", config, "-i", run.input(), "-o", run.path("records.jsonl")] + [
            *("-e", run.path("errors.jsonl"), "--cores", "1", "--workers", str(run.in_flight), "--rate", "0"),
            *("--runtime", self.runtime, "--no-progress", "--ca-file", run.certificate),
        ]

    def answered(self, run, output):
        """Records that are there, in the order of the lines."""
        with open(run.path("records.jsonl"), "rb") as records:
            return sum(1 for _ in records)


class Wrk(Client):
    name = "wrk"

    def command(self, run):
        if run.protocol == "HTTP/2 over TLS" or not shutil.which("wrk"):
            return None
        script = run.path("post.lua")
        with open(script, "w", encoding="utf-8") as out:
            out.write(f'wrk.method = "POST"\nwrk.body = [[{BODY}]]\nwrk.headers["Content-Type"] = "application/json"\n')
        # It knows a time, not a number.
        return ["wrk", "-t1", f"-c{run.in_flight}", "-d5s", "-s", script, run.url]

    def answered(self, run, output):
        return int(re.search(r"(\d+) requests in", output).group(1))


class H2load(Client):
    name = "h2load"

    def command(self, run):
        if not shutil.which("h2load"):
            return None
        body = run.path("body.json")
        with open(body, "w", encoding="utf-8") as out:
            out.write(BODY)
        streams = min(STREAMS, run.in_flight)
        shape = [f"-c{run.in_flight // streams}", f"-m{streams}"] if run.multiplexed else ["--h1", f"-c{run.in_flight}"]
        return ["h2load", "-t1", *shape, f"-n{run.requests}", "-d", body, "-H", "content-type: application/json", run.url]

    def answered(self, run, output):
        return int(re.search(r"(\d+) succeeded", output).group(1))


class Oha(Client):
    name = "oha"

    def __init__(self, program):
        self.program = program

    def command(self, run):
        if not self.program:
            return None
        streams = min(STREAMS, run.in_flight)
        shape = ["-c", str(run.in_flight)]
        if run.multiplexed:
            shape = ["--http2", "-c", str(run.in_flight // streams), "-p", str(streams)]
        return [self.program, "--no-tui", "--insecure", *shape, "-n", str(run.requests)] + [
            *("-m", "POST", "-d", BODY, "-T", "application/json", run.url),
        ]

    def answered(self, run, output):
        return int(re.search(r"\[200\] (\d+) responses", output).group(1))


class Aiohttp(Client):
    name = "aiohttp script"
    share = 0.05

    def __init__(self, python):
        self.python = python

    def command(self, run):
        if run.multiplexed:
            return None
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "aiohttp_client.py")
        certificate = [run.certificate] if run.protocol != "HTTP/1.1" else []
        return [self.python, script, run.url, run.input(), run.path("aiohttp.jsonl"), str(run.in_flight), *certificate]

    def answered(self, run, output):
        with open(run.path("aiohttp.jsonl"), "rb") as records:
            return sum(1 for _ in records)
