"""The machine, the table and the chart of one comparison, as text, Markdown and SVG."""

import os
import platform
import re
import subprocess
from dataclasses import dataclass

from servers import PROTOCOLS


@dataclass
class Row:
    """What one client cost over one protocol: medians."""

    protocol: str
    client: str
    # User + system time of the client's process for one request, in microseconds.
    cpu_us: float
    # Requests answered in a second of the run, with the server on another core.
    per_second: float
    # Anonymous memory that one more request in flight costs.
    memory_kib: float


def machine(options, seconds):
    """What it was measured on, and how."""
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        model = re.search(r"model name\s*: (.*)", info.read())
    with open("/proc/meminfo", encoding="utf-8") as info:
        memory_gib = round(int(info.read().split()[1]) / (1 << 20))
    versions = [first_line(["nginx", "-v"]), first_line(["wrk", "-v"]), first_line(["h2load", "--version"])]
    if options.oha:
        versions.append(first_line([options.oha, "--version"]))
    aiohttp = __import__("aiohttp").__version__
    versions.append(f"aiohttp {aiohttp} on Python {platform.python_version()}")
    kernel = re.match(r"[\d.]*\d", platform.release()).group(0)
    cpu = model.group(1) if model else platform.machine()
    return (
        f"{cpu}, {os.cpu_count()} cores, {memory_gib} GiB, Linux {kernel}; {', '.join(filter(None, versions))}. "
        f"{options.requests} requests (aiohttp: a twentieth; wrk: 5 s), {options.in_flight} in flight "
        f"(HTTP/2: 64 streams a connection), medians of {options.runs} runs, all in {seconds:.0f} s; "
        f"load average before the start {options.load:.1f}."
    )


def first_line(command):
    """A program's name and version, as it says itself."""
    path = os.environ["PATH"] + ":/usr/sbin"
    try:
        said = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path}, check=False)
    except OSError:
        return ""
    found = re.search(r"(nginx|wrk|h2load|oha)(?: nghttp2)?\D*?([\d.]+\d)", said.stdout + said.stderr)
    return f"{found.group(1)} {found.group(2)}" if found else ""


def leanest_limit(rows, protocol):
    """CPU of the client that keeps nothing, against which the others are held: wrk, over HTTP/2 h2load."""
    name = "h2load" if protocol == "HTTP/2 over TLS" else "wrk"
    return next((row.cpu_us for row in rows if (row.protocol, row.client) == (protocol, name)), None)


def table(rows):
    """Markdown."""
    lines = [
        "| protocol | client | CPU µs/request | of the limit | requests/s a core of CPU | requests/s reached | KiB per request in flight |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        limit = leanest_limit(rows, row.protocol)
        ratio = f"{row.cpu_us / limit:.2f}" if limit else "–"
        lines.append(
            f"| {row.protocol} | {row.client} | {row.cpu_us:.1f} | {ratio} | {1e6 / row.cpu_us:,.0f} "
            f"| {row.per_second:,.0f} | {row.memory_kib:.1f} |".replace(",", " ")
        )
    return "\n".join(lines)


def write(docs, machine_text, rows):
    """Replaces what is between the markers of BENCHMARKS.md, and the chart."""
    path = os.path.join(docs, "BENCHMARKS.md")
    with open(path, encoding="utf-8") as source:
        text = source.read()
    begin, end = "<!-- comparison: written by scripts/bench.sh --all -->", "<!-- end of comparison -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    with open(path, "w", encoding="utf-8") as target:
        target.write(f"{before}{begin}\n\n{machine_text}\n\n{table(rows)}\n\n{end}{after}")
    chart(os.path.join(docs, "benchmarks.svg"), rows)
    write_ratios(os.path.join(docs, os.pardir, "README.md"), rows)


def write_ratios(path, rows):
    """The README's own figures: blaze-uring on io_uring, of the limit."""
    with open(path, encoding="utf-8") as source:
        text = source.read()
    for row in rows:
        limit = leanest_limit(rows, row.protocol)
        if row.client == "blaze-uring (io_uring)" and limit:
            begin = re.escape(f"<!-- of the limit: {row.protocol} -->")
            text = re.sub(f"({begin})[^<]*(<!-- end -->)", rf"\g<1>{row.cpu_us / limit:.2f}\g<2>", text)
    with open(path, "w", encoding="utf-8") as target:
        target.write(text)


def chart(path, rows):
    """CPU per request, one panel a protocol. The axis is logarithmic: aiohttp would hide the rest."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plot

    # Text stays text, and the same figures give the same file.
    plot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "blaze-uring", "font.family": "sans-serif"})
    groups = [[row for row in rows if row.protocol == protocol] for protocol in PROTOCOLS]
    heights = [len(group) for group in groups]
    figure, panels = plot.subplots(len(groups), 1, figsize=(8, 7), sharex=True, gridspec_kw={"height_ratios": heights})
    for protocol, group, panel in zip(PROTOCOLS, groups, panels):
        names = [row.client for row in group]
        colours = ["#d9541e" if name.startswith("blaze") else "#8a94a6" for name in names]
        bars = panel.barh(names, [row.cpu_us for row in group], color=colours)
        panel.bar_label(bars, labels=[f"{row.cpu_us:.1f}" for row in group], padding=4)
        panel.set_title(protocol, loc="left", fontsize=11, fontweight="bold")
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.invert_yaxis()
        panel.spines[["top", "right"]].set_visible(False)
    widest = max(row.cpu_us for row in rows)
    panels[-1].set_xlim(left=min(row.cpu_us for row in rows) / 2, right=widest * 2)
    panels[-1].set_xlabel("client CPU per request, µs (logarithmic; less is better). wrk and h2load keep nothing")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None, "Creator": None})
