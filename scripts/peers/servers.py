"""nginx with one fixed answer on three ports: HTTP/1.1, HTTP/1.1 over TLS, HTTP/2 over TLS."""

import os
import signal
import socket
import subprocess
import time

ANSWER_BYTES = 700
# Streams on one connection; with 256 in flight that makes four connections.
STREAMS = 64

PROTOCOLS = ("HTTP/1.1", "HTTP/1.1 over TLS", "HTTP/2 over TLS")


def answer():
    """A chat completion of ANSWER_BYTES bytes."""
    text = (
        '{"id":"chatcmpl-0001","object":"chat.completion","created":1700000000,"model":"bench","choices":'
        '[{"index":0,"message":{"role":"assistant","content":"@"},"finish_reason":"stop"}],'
        '"usage":{"prompt_tokens":42,"completion_tokens":96,"total_tokens":138}}'
    )
    return text.replace("@", "x" * (ANSWER_BYTES - len(text) + 1))


class Nginx:
    """One worker process on `core`; `url(protocol)` is where it listens."""

    def __init__(self, folder, core):
        self.certificate = os.path.join(folder, "cert.pem")
        key = os.path.join(folder, "key.pem")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
            + ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
            + ["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out", self.certificate],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        self.ports = dict(zip(PROTOCOLS, free_ports(len(PROTOCOLS))))
        plain, tls, http2 = (self.ports[protocol] for protocol in PROTOCOLS)
        temporary = "".join(
            f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        location = f"location / {{ default_type application/json; return 200 '{answer()}'; }}"
        files = f"ssl_certificate {self.certificate}; ssl_certificate_key {key};"
        config = os.path.join(folder, "nginx.conf")
        with open(config, "w", encoding="utf-8") as out:
            out.write(
                f"""daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr error;
worker_rlimit_nofile 20000;
events {{ worker_connections 8000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; {temporary}
  server {{ listen 127.0.0.1:{plain}; {location} }}
  server {{ listen 127.0.0.1:{tls} ssl; {files} {location} }}
  server {{ listen 127.0.0.1:{http2} ssl http2; http2_max_concurrent_streams {STREAMS}; {files} {location} }}
}}
"""
            )
        self.process = subprocess.Popen(
            ["nginx", "-c", config, "-p", folder],
            env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        for port in self.ports.values():
            self.await_port(port)

    def await_port(self, port):
        for _ in range(1000):
            if self.process.poll() is not None:
                raise SystemExit("nginx does not start")
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except OSError:
                time.sleep(0.01)
        raise SystemExit("nginx does not listen")

    def url(self, protocol):
        scheme = "http" if protocol == "HTTP/1.1" else "https"
        return f"{scheme}://localhost:{self.ports[protocol]}/v1/chat/completions"

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def free_ports(count):
    """Numbers that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
