"""The script most people write first: a JSONL file through aiohttp, so many requests at once.

    aiohttp_client.py URL INPUT OUTPUT IN_FLIGHT [CA_FILE]

Reads the file line by line, posts each line as it is, and writes a record for each answer as it comes.
No retries, no rate, no resuming: what a bare event loop costs.
"""

import asyncio
import json
import ssl
import sys

import aiohttp


async def main(url, source, target, in_flight, ca_file):
    context = ssl.create_default_context(cafile=ca_file) if ca_file else None
    connector = aiohttp.TCPConnector(limit=in_flight, ssl=context if context else True)
    lines = enumerate(open(source, encoding="utf-8"), 1)
    with open(target, "w", encoding="utf-8") as records:
        async with aiohttp.ClientSession(connector=connector) as session:

            async def worker():
                for number, line in lines:
                    headers = {"content-type": "application/json"}
                    async with session.post(url, data=line.rstrip("\n"), headers=headers) as response:
                        record = {"response": await response.json(), "line_number": number}
                        records.write(json.dumps(record) + "\n")

            await asyncio.gather(*(worker() for _ in range(in_flight)))


if __name__ == "__main__":
    url, source, target, in_flight, *rest = sys.argv[1:]
    asyncio.run(main(url, source, target, int(in_flight), rest[0] if rest else None))
