"""Runs servers that nobody here wrote and compares records with what OpenAI's SDK makes of the same answers.

The SDK asks first, through a tap that keeps every answer as it came, byte for byte. The same requests then go through
blaze-uring to the tap, which gives out what it has kept: so a server may answer by chance, and ids and times are
compared, too. A file of further lines then goes to the server itself, and all of them must succeed.
"""

import argparse
import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

import openai
from openai.lib.streaming.chat import ChatCompletionStreamState

START_SECONDS = 120
DIRECT_LINES = 200
# LiteLLM refuses to start without one; the others take any.
KEY = "sk-" + secrets.token_hex(32)
MESSAGES = [{"role": "user", "content": "Why is the sky blue? \u00dc\U0001f600"}]
APIS = ("chat", "chat, streamed", "completions", "completions, streamed", "embeddings")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A process, from its start to its end, and where its API is."""

    def __init__(self, name, command, port, model, folder, ready="/health", env=None, apis=APIS):
        self.name, self.port, self.model, self.apis = name, port, model, apis
        self.log = open(os.path.join(folder, name.split()[0] + ".log"), "wb")
        self.process = subprocess.Popen(
            command,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        self.ready = ready

    def wait(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                self.give_up("did not start")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self.ready}", timeout=2)
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.2)
        self.give_up(f"did not start within {START_SECONDS} s")

    def give_up(self, why):
        with open(self.log.name, encoding="utf-8", errors="replace") as log:
            sys.exit(f"{self.name} {why}:\n{log.read()[-2000:]}")

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)


def litellm(venvs, folder):
    port = free_port()
    config = os.path.join(folder, "litellm.yaml")
    vector = [0.25, -0.5, 0.015625]
    entries = [
        {"model_name": "mock", "litellm_params": {"model": "openai/gpt-4o-mini", "api_key": "x", "mock_response": "Because of Rayleigh."}},
        {"model_name": "mock-text", "litellm_params": {"model": "text-completion-openai/gpt-3.5-turbo-instruct", "api_key": "x", "mock_response": "Because of Rayleigh."}},
        {"model_name": "mock-embed", "litellm_params": {"model": "openai/text-embedding-3-small", "api_key": "x", "mock_response": vector}},
    ]
    with open(config, "w", encoding="utf-8") as out:
        json.dump({"model_list": entries}, out)
    command = [f"{venvs}/litellm/bin/litellm", "--config", config, "--host", "127.0.0.1", "--port", str(port)]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": KEY, "NO_PROXY": "*"}
    models = {"chat": "mock", "completions": "mock-text", "embeddings": "mock-embed"}
    return [Server("LiteLLM proxy", command, port, models, folder, ready="/health/liveliness", env=env)]


def guidellm(venvs, folder):
    port = free_port()
    command = [f"{venvs}/guidellm/bin/guidellm", "mock-server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", "mock", "--request-latency", "0.01", "--ttft-ms", "1", "--itl-ms", "1", "--output-tokens", "12"]
    # It has no embeddings.
    return [Server("guidellm mock-server", command, port, "mock", folder, apis=APIS[:4])]


def llmock(venvs, folder):
    port = free_port()
    command = [f"{venvs}/llmock/bin/llmock", "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--response-style", "varied", "--log-level", "warning"]
    # It has no completions.
    return [Server("llmock", command, port, "gpt-4o-mini", folder, apis=(*APIS[:2], APIS[4]))]


def aiohttp_behind_nginx(venvs, folder):
    behind, port = free_port(), free_port()
    script = os.path.join(os.path.dirname(__file__), "aiohttp_server.py")
    server = Server("aiohttp", [f"{venvs}/sdk/bin/python", script, str(behind)], behind, "mock", folder)
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = os.path.join(folder, "nginx.conf")
    with open(config, "w", encoding="utf-8") as out:
        out.write(
            f"""daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr error; events {{}}
http {{ access_log off; {temporary} gzip on; gzip_min_length 1; gzip_types application/json text/event-stream;
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{behind}; proxy_http_version 1.1;
    proxy_buffering off; }} }} }}
"""
        )
    nginx = "/usr/sbin/nginx" if os.path.exists("/usr/sbin/nginx") else "nginx"
    proxy = Server("aiohttp behind nginx", [nginx, "-c", config, "-p", folder], port, "mock", folder)
    return [server, proxy]


SERVERS = {"litellm": litellm, "guidellm": guidellm, "llmock": llmock, "aiohttp": aiohttp_behind_nginx}


class Tap:
    """Passes requests on and keeps the answers; gives out what it has kept to whoever asks the same again."""

    def __init__(self, upstream_port):
        self.upstream_port = upstream_port
        self.kept = {}
        self.loop = asyncio.new_event_loop()
        started = threading.Event()
        threading.Thread(target=self.run, args=(started,), daemon=True).start()
        started.wait()

    def run(self, started):
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_server(self.serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self.loop.run_forever()

    async def serve(self, reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            fields = [line.split(":", 1) for line in lines[1:] if ":" in line]
            length = next((int(value) for name, value in fields if name.lower() == "content-length"), 0)
            body = await reader.readexactly(length)
            key = (lines[0].split(" ")[1], json.dumps(json.loads(body), sort_keys=True))
            if key not in self.kept:
                self.kept[key] = await self.ask(lines[0], fields, body)
            writer.write(self.kept[key])
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def ask(self, request_line, fields, body):
        """The whole answer: the server closes the connection behind it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        hop_by_hop = ("connection", "host")
        fields = [f"{name}:{value}" for name, value in fields if name.lower() not in hop_by_hop]
        head = [request_line, f"host: 127.0.0.1:{self.upstream_port}", "connection: close", *fields]
        writer.write("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)
        await writer.drain()
        answer = await reader.read()
        writer.close()
        return answer


def model_of(server, api):
    kind = api.split(",")[0]
    return server.model if isinstance(server.model, str) else server.model[kind]


def request_of(server, api):
    """Path and body; streams ask for their usage."""
    body = {"model": model_of(server, api)}
    if api.startswith("chat"):
        path = "/v1/chat/completions"
        body |= {"messages": MESSAGES, "max_tokens": 12}
    elif api.startswith("completions"):
        path = "/v1/completions"
        body |= {"prompt": "Why is the sky blue?", "max_tokens": 12}
    else:
        path = "/v1/embeddings"
        body |= {"input": ["one", "two"], "encoding_format": "float"}
    if api.endswith("streamed"):
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return path, body


def ask_sdk(client, api, body):
    """What the SDK gives a program for this request, as JSON."""
    if api == "chat, streamed":
        state = ChatCompletionStreamState()
        for chunk in client.chat.completions.create(**body):
            state.handle_chunk(chunk)
        answer = state.get_final_completion().to_dict()
        for choice in answer["choices"]:
            # Left out where no chunk names it; without streaming it is always there.
            choice["message"]["role"] = choice["message"].get("role") or "assistant"
        return answer
    if api == "completions, streamed":
        return joined(client.completions.create(**body))
    ask = {"chat": client.chat.completions, "completions": client.completions, "embeddings": client.embeddings}
    return ask[api].create(**body).to_dict()


def joined(chunks):
    """The SDK gives the chunks of a streamed completion and leaves the rest to its caller."""
    answer, choices = {}, {}
    for chunk in chunks:
        chunk = chunk.to_dict()
        for piece in chunk.pop("choices"):
            choice = choices.setdefault(piece["index"], {"text": ""})
            text = choice["text"] + (piece.pop("text", None) or "")
            choice |= {name: value for name, value in piece.items() if value is not None}
            choice["text"] = text
        answer |= {name: value for name, value in chunk.items() if value is not None}
    return answer | {"choices": [choices[index] for index in sorted(choices)]}


def plain(value):
    """Without what the SDK adds or leaves out: nulls, empty lists, and the parsed form of a message."""
    if isinstance(value, dict):
        kept = {name: plain(item) for name, item in value.items() if name not in ("parsed", "object")}
        return {name: item for name, item in kept.items() if item not in (None, [], {})}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def run_blaze(arguments, folder, url, lines):
    """The records of both files, by line, and the exit status."""
    folder = tempfile.mkdtemp(dir=folder)
    with open(os.path.join(folder, "in.jsonl"), "w", encoding="utf-8") as out:
        out.writelines(json.dumps(line) + "\n" for line in lines)
    command = [os.path.abspath(arguments.binary), "-i", "in.jsonl", "-o", "out.jsonl", "--no-progress"]
    command += ["--endpoint-url", url, "--runtime", arguments.runtime, "--format", "blaze"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("BLAZE_")}
    env["BLAZE_API_KEY"] = KEY
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    records = {}
    for name in ("out.jsonl", "errors.jsonl"):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                for record in map(json.loads, file):
                    line = record.get("line_number") or record["metadata"]["line_number"]
                    records[line] = record
    return records, done


def check(arguments, server, folder):
    """One row of the table: what came of each API, and of the lines that went to the server itself."""
    tap = Tap(server.port)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{tap.port}/v1", api_key=KEY, max_retries=0)
    requests, expected = [], []
    for api in server.apis:
        path, body = request_of(server, api)
        requests.append({"url": path, "method": "POST", "body": body})
        expected.append(plain(ask_sdk(client, api, body)))
    records, done = run_blaze(arguments, folder, f"http://127.0.0.1:{tap.port}", requests)
    row = {}
    for line, (api, expect) in enumerate(zip(server.apis, expected), 1):
        record = records.get(line, {})
        found = plain(record.get("response"))
        row[api] = "equal" if found == expect and "error" not in record else "DIFFERS"
        if row[api] != "equal":
            print(f"{server.name}, {api}:\n  SDK    {expect}\n  record {record}\n{done.stderr}", file=sys.stderr)
    lines = [requests[index % len(requests)] | {"n": index} for index in range(DIRECT_LINES)]
    records, done = run_blaze(arguments, folder, f"http://127.0.0.1:{server.port}", lines)
    good = sum("error" not in record for record in records.values())
    row["direct"] = f"{good} of {DIRECT_LINES}"
    if good != DIRECT_LINES:
        failures = [record for record in records.values() if "error" in record]
        print(f"{server.name}, direct: {failures[:3]}\n{done.stderr}", file=sys.stderr)
    return row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--venvs", required=True)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--only", choices=SERVERS)
    arguments = parser.parse_args()
    failed = False
    print("| server | " + " | ".join(APIS) + f" | {DIRECT_LINES} lines to the server itself |")
    print("|---" * (len(APIS) + 2) + "|")
    for name, start in SERVERS.items():
        if arguments.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            started = start(arguments.venvs, folder)
            try:
                for server in started:
                    server.wait()
                server = started[-1]
                row = check(arguments, server, folder)
            finally:
                for server in started:
                    server.stop()
        cells = [row.get(api, "not served") for api in APIS] + [row["direct"]]
        print(f"| {server.name} | " + " | ".join(cells) + " |", flush=True)
        failed |= "DIFFERS" in cells or not row["direct"].startswith(f"{DIRECT_LINES} ")
    sys.exit(failed)


main()
