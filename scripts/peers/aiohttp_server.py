"""A plain aiohttp server with OpenAI's chat, completions and embeddings, as people write them for models of their own."""

import json
import sys

from aiohttp import web

WORDS = ["The", " sky", " is", " blue", ",", " \u00e9", "\U0001f600", "."]


def usage(prompt, completion):
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


async def generate(request):
    body = await request.json()
    chat = request.path.endswith("/chat/completions")
    kind = "chat.completion" if chat else "text_completion"
    base = {"id": "gen-1", "created": 1700000000, "model": body["model"]}
    if not body.get("stream"):
        text = "".join(WORDS)
        answer = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None, **answer}
        return web.json_response({**base, "object": kind, "choices": [choice], "usage": usage(5, len(WORDS))})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)

    async def event(choices, **more):
        chunk = {**base, "object": kind + (".chunk" if chat else ""), "choices": choices, **more}
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    if chat:
        await event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    await response.write(b": keep-alive\n\n")
    for word in WORDS:
        piece = {"delta": {"content": word}} if chat else {"text": word}
        await event([{"index": 0, "finish_reason": None, **piece}])
    end = {"delta": {}} if chat else {"text": ""}
    await event([{"index": 0, "finish_reason": "stop", **end}])
    await event([], usage=usage(5, len(WORDS)))
    await response.write(b"data: [DONE]\n\n")
    return response


async def embed(request):
    body = await request.json()
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = [
        {"object": "embedding", "index": index, "embedding": [0.1, -2.5e-7, float(len(text))]}
        for index, text in enumerate(inputs)
    ]
    tokens = {"prompt_tokens": 3, "total_tokens": 3}
    return web.json_response({"object": "list", "model": body["model"], "data": data, "usage": tokens})


app = web.Application()
app.router.add_post("/v1/chat/completions", generate)
app.router.add_post("/v1/completions", generate)
app.router.add_post("/v1/embeddings", embed)
app.router.add_get("/health", lambda _: web.Response(text="ok"))
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
